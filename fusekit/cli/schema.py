"""`fusekit schema`: the JSON Schema of configs, for editors."""

from fusekit.cli.options import Output, without_device, write


def command(output: Output = None) -> None:
    """Write the JSON Schema of the language."""
    without_device()
    from fusekit.config.schema import schema_text

    write(schema_text(), output)
