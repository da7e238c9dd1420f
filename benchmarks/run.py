"""Compare servers side by side, under the same load with the same models, in interleaved rounds.

    python benchmarks/run.py [--only REST,GRPC,...] [--seconds 5] [--rounds 3]

See README.md for how to read the result and how to add a server or a case.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import peers
import report
from cases import CASES, Case, Run, needed
from environments import ServerError, note
from load import Generator, find_wrk
from peers import FLOOR, PEERS
from sections import case_sections, goal_sections, loss_sections
from servers import Peer, prepare, stop_on_sigterm


def main() -> int:
    """Run the comparison; 0 if every server was measured without a failed request, else 1."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    cases: list[Case] = arguments.only.cases
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        run = start_run(arguments, needed(cases), Path(name), arguments.only.servers)
        facts |= load_facts(run)
        for case in cases:
            try:
                case.run(run, case.name)
            except ServerError as error:
                run.bench.fail(case.name, error)
            except (KeyboardInterrupt, SystemExit):
                # its servers are stopped by now; what was measured is not lost
                run.bench.fail(case.name, ServerError("was interrupted, and all after it"))
                break
    report.publish(
        "Side by side",
        [
            *report.failures_section(run.bench.failures),
            *goal_sections(run),
            *loss_sections(run, cases),
            *(section for case in cases for section in case_sections(run, case)),
        ],
        facts=facts,
        versions=run.bench.versions(),
        raw=raw(run),
        arguments=arguments,
    )
    return status(run)


class _Only:
    """What `--only` chooses: cases, servers or both; what is not mentioned is not restricted."""

    def __init__(self, text: str = "") -> None:
        names = [name for name in text.lower().split(",") if name]
        unknown = [name for name in names if name not in CASES and name not in PEERS]
        if unknown:
            known = f"cases {', '.join(CASES)}; servers {', '.join(PEERS)}"
            message = f"no case and no server named {', '.join(unknown)}; known: {known}"
            raise argparse.ArgumentTypeError(message)
        self.cases = [case for name, case in CASES.items() if name in names] or [*CASES.values()]
        self.servers = frozenset(names) - CASES.keys()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        type=_Only,
        default=_Only(),
        metavar="NAME,...",
        help=f"only these cases, of {', '.join(CASES)}; or servers, of {', '.join(PEERS)}; or both",
    )
    add_load_arguments(parser)
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/RESULTS.md")
    return parser.parse_args()


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much is measured."""
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--connections",
        type=lambda text: [int(number) for number in text.split(",")],
        default=[1, 16, 64],
        metavar="N,...",
        help="levels of the closed loops over REST",
    )


def start_run(
    arguments: argparse.Namespace,
    servers: list[Peer],
    folder: Path,
    chosen: frozenset[str] = frozenset(),
) -> Run:
    """Make environments, models and load generators.

    Raises:
        ServerError: The environment of the load generator, or a model, can not be made.
    """
    wanted = [peer for peer in servers if not chosen or peer.name.split(",")[0] in chosen]
    bench = prepare(wanted, FLOOR, arguments.envs, folder)
    generator = Generator(bench.scripts[FLOOR.name] / "python")
    return Run(
        bench,
        find_wrk(folder),
        generator,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        connections=arguments.connections,
        chosen=chosen,
    )


def load_facts(run: Run) -> dict[str, str]:
    """Say how the load is made, and how often."""
    ours = "benchmarks/generator.py"
    if run.wrk is None:
        note("wrk is not installed (Debian package `wrk`): our generator takes its place")
    return {
        "Rounds": f"{run.rounds} of {run.seconds} s; `median (min-max)` is over the rounds",
        "Load": ours if run.wrk is None else f"{run.wrk.version()} for closed loops, {ours}",
    }


def raw(run: Run) -> dict[str, object]:
    """Give all that was measured, for the JSON."""
    return {
        "measurements": list(map(asdict, run.measurements)),
        "remarks": run.remarks,
        "failures": run.bench.failures,
    }


def status(run: Run) -> int:
    """Give the exit status: 0 if everything was measured and no request failed."""
    failed = any(each.load.n_errors for each in run.measurements)
    return 1 if run.bench.failures or failed or not run.measurements else 0


if __name__ == "__main__":
    sys.exit(main())
