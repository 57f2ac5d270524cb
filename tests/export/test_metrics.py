"""The text that Prometheus reads, by hand."""

from fusekit.export.serve.metrics import Counter, Gauge, Histogram, Metrics


def test_a_counter():
    counter = Counter("a_total", "What it is.", "status")
    assert counter.lines() == ["# HELP a_total What it is.", "# TYPE a_total counter"]
    counter.add("500")
    counter.add("200")
    counter.add("200", by=2)
    assert counter.lines()[2:] == ['a_total{status="200"} 3', 'a_total{status="500"} 1']
    assert Counter("b", "").lines()[2:] == ["b 0"]


def test_large_counts_are_whole():
    counter = Counter("a", "")
    counter.add(by=12_345_678)
    assert counter.lines()[2:] == ["a 12345678"]


def test_a_gauge():
    gauge = Gauge("a", "b")
    gauge.value = 2.5
    assert gauge.lines() == ["# HELP a b", "# TYPE a gauge", "a 2.5"]


def test_a_histogram_counts_up_to_and_with_each_bound():
    histogram = Histogram("a", "b", (0.5, 1, 2))
    for value in (0.25, 0.5, 1.5, 9.0):
        histogram.add(value)
    assert histogram.lines() == [
        "# HELP a b",
        "# TYPE a histogram",
        'a_bucket{le="0.5"} 2',
        'a_bucket{le="1"} 2',
        'a_bucket{le="2"} 3',
        'a_bucket{le="+Inf"} 4',
        "a_sum 11.25",
        "a_count 4",
    ]


def test_every_line_is_a_comment_or_a_sample():
    metrics = Metrics((1, 2))
    metrics.requests.add("200")
    text = metrics.text()
    assert text.endswith("\n")
    names = set()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            float(value)
            assert line not in names
            names.add(name)
    assert 'fusekit_requests_total{status="200"}' in names
