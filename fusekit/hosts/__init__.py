"""Many hosts: how processes find each other, share rows, and end together when one is lost.

A host is one process of a run; a machine may have several. Start every one with the same command:

    with fusekit.hosts.join.joined():   # finds out where it runs; one process: does nothing
        fusekit.train(experiment)
"""
