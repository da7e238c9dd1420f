import msgspec
import pytest

from jackfield._load import plot, report
from jackfield._load.plan import Load, Target
from jackfield._load.session import Results, Row, Server, sweep
from jackfield._load.tally import Tally, merged
from jackfield.client import ServerMetadata

MS = 1_000_000


def server_of(url):
    return Server(url, Target(url, "p", b"{}"), ServerMetadata("s", "1"))


def tally_of(*latencies_ms, measured_s=1.0, lag_ms=0, **fields):
    tally = Tally(measured_s=measured_s, **fields)
    for each in latencies_ms:
        tally.latency.record(int(each * MS))
        tally.lag.record(lag_ms * MS)
        tally.answered += 1
        tally.in_window += 1
        tally.sent += 1
    return tally


def results_of(*throughputs):
    """One server for each, with so many answers in each round."""
    servers = [server_of(f"http://{number}") for number in range(len(throughputs))]
    results = Results(servers)
    for server, counts in zip(servers, throughputs, strict=True):
        for count in counts:
            results.row(server, Load(connections=1)).rounds.append(tally_of(*[1] * count))
    return results


def test_rounds_and_processes_add_up():
    first, second = tally_of(1, 2, busy=0.5), tally_of(3, busy=0.2, dropped=1)
    first.fail("500", "first")
    second.fail("500", "second")
    second.fail("500", "third")
    second.fail("timeout", "")
    beside = merged([first, second], is_beside=True)
    after = merged([first, second], is_beside=False)
    assert (beside.measured_s, after.measured_s) == (1, 2)
    assert (beside.throughput_per_s, after.throughput_per_s) == (3, 1.5)
    for tally in (beside, after):
        assert (tally.answered, tally.dropped, tally.busy, tally.failed) == (3, 1, 0.5, 4)
        assert tally.failures["500"].example == "first"
    # and those that were merged are as before
    assert (first.answered, first.failures["500"].count) == (2, 1)


@pytest.mark.parametrize(
    ("tally", "is_limit"),
    [
        (tally_of(5, busy=0.95), True),
        (tally_of(5, busy=0.5), False),
        (tally_of(5, lag_ms=4), True),
        (tally_of(5, lag_ms=1), False),
        (tally_of(500, lag_ms=4), False),
    ],
)
def test_the_table_says_when_the_generator_is_the_limit(tally, is_limit):
    row = Row(server_of("http://a"), Load(rate=1000.0), [tally])
    columns, [cells] = report.table([row])
    assert ("limit" in columns) is is_limit
    assert len(columns) == len(cells)
    assert any("the generator was the limit" in each for each in report.remarks(row)) is is_limit


def test_what_was_dropped_has_a_column_and_a_remark():
    row = Row(server_of("http://a"), Load(rate=1000.0), [tally_of(1, dropped=3)])
    columns, [cells] = report.table([row])
    assert dict(zip(columns, cells, strict=True))["dropped"] == "75.0%"
    [remark] = report.remarks(row)
    assert remark.startswith("3 requests were due and not sent")


def test_a_row_without_answers_has_no_percentiles():
    tally = Tally(measured_s=1.0, sent=2)
    tally.fail("500", "broken")
    _, [cells] = report.table([Row(server_of("http://a"), Load(connections=2), [tally])])
    assert cells == ["2 connections", "0", "-", "-", "-", "-", "-", "1"]


def test_a_ratio_has_the_median_and_the_spread_of_the_rounds():
    results = results_of([100, 100, 100], [50, 200, 80])
    throughput, p50, _ = report.ratios(results, results.servers[1], Load(connections=1))
    assert str(throughput) == "0.80 (0.50-2.00)"
    assert p50.values == [1.0, 1.0, 1.0]


def test_a_round_without_answers_is_in_no_ratio():
    results = results_of([100, 0], [50, 200])
    throughput, *_ = report.ratios(results, results.servers[1], Load(connections=1))
    assert throughput.values == [0.5]
    results = results_of([0], [50])
    assert report.ratios(results, results.servers[1], Load(connections=1)) == []
    assert msgspec.json.encode(report.as_value(results))


def test_a_sweep_goes_by_the_slower_server():
    assert [load.rate for load in sweep(results_of([100], [200]))] == list(range(10, 100, 10))
    assert sweep(results_of([0])) == []


def test_a_drawing_has_each_point_at_its_place():
    lines = [plot.Series("p50", ".", [(0.0, 1.0), (100.0, 1000.0)])]
    text = plot.draw_text(lines, width=40, height=10)
    rows = [line.partition("|")[2] for line in text.splitlines()[1:11]]
    # the fastest and least at the bottom left, the slowest and most at the top right
    assert rows[-1] == "."
    assert rows[0].rstrip().endswith(".")
    assert rows[0].index(".") == 39
    assert not "".join(rows[1:-1]).strip()
    assert text.endswith(". p50")


def test_nothing_measured_is_nothing_drawn():
    assert plot.draw_text([]) == ""
    assert plot.series(results_of([0])) == []


def test_servers_are_told_apart_in_a_drawing():
    lines = plot.series(results_of([10], [20]))
    assert [line.label for line in lines] == [
        *("p50 http://0", "p99 http://0"),
        *("p50 http://1", "p99 http://1"),
    ]
    assert len({line.mark for line in lines}) == 4
