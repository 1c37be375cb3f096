"""The command line for a model of the user's own: ``purify scan …`` and ``purify clean …``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from purify.case import Case
    from purify.cleaning import Cleaned
    from purify.scanning import Scan

ALARM, UNTESTED = 3, 4
"""The exit status of a scan with an alarm, and of one where nothing could be tested, where asked for."""

SuspectModel = Annotated[str, typer.Argument(help="Folder or hub id of a fine-tuned classifier, or of a LoRA adapter.")]
Data = Annotated[Path, typer.Option("--data", help="Clean labelled examples: .csv, .tsv, .jsonl or .parquet.")]
Clean = Annotated[
    str | None, typer.Option("--clean", help="The clean model it came from: bundled, hub id or folder. Default: found.")
]
Text = Annotated[str, typer.Option("--text", help="The column of the text.")]
Label = Annotated[str, typer.Option("--label", help="The column of the label: numbers or names of classes.")]
Pair = Annotated[str | None, typer.Option("--pair", help="The column of the second text, for tasks on pairs.")]
MaxLength = Annotated[int, typer.Option(min=16, help="Tokens per input.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16 (autocast); the Fisher is computed in fp32.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone, and no progress bars.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if an earlier run of purify wrote it.")]


def scan(
    suspect: SuspectModel,
    data: Data,
    clean: Clean = None,
    text: Text = "text",
    label: Label = "label",
    pair: Pair = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new folder for report.html and report.json.")
    ] = None,
    max_length: MaxLength = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per forward pass.")] = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with status 3 on an alarm, 4 if nothing can be tested.")
    ] = False,
) -> None:
    """Say whether a fine-tuned model looks poisoned, where, and what to do. Nothing is changed.

    The suspect is held against its clean model on a few clean examples (fifty are enough), and against honest
    fine-tuned models. Reads safetensors, configs and tokenizers alone; fetches nothing that you do not name.

    Examples:
      purify scan suspects/badword --data clean.csv
      purify scan me/my-model --clean google-bert/bert-base-uncased --data clean.jsonl --label topic -o report
      purify scan suspects/badword --data clean.csv --json | jq .verdict.score
    """
    from purify.output import new_folder, refuse
    from purify.scanning import scan as run

    if output:
        refuse(output, force=force, inputs=(Path(suspect), data, Path(clean or "")))
    case, rows = _opened(suspect, clean, data, text, label, pair, device, precision, json_ or quiet)
    found = run(case, rows, max_length=max_length, batch_size=batch_size, precision=_precision(precision), seed=seed)
    options = _options(text=text, label=label, pair=pair, max_length=max_length, seed=seed)
    report = _report(found, data, options)
    if output:
        with new_folder(output, force=force) as folder:
            _write(report, folder)
    _tell(report, output, json_=json_, quiet=quiet)
    if exit_code and (found.alarm or not found.tested):
        raise typer.Exit(ALARM if found.alarm else UNTESTED)


def clean(
    suspect: SuspectModel,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder that the cleaned model goes to.")],
    clean: Clean = None,
    text: Text = "text",
    label: Label = "label",
    pair: Pair = None,
    reserve: Annotated[
        float | None, typer.Option(help="ρ, the share of the judged dimensions to keep. Default: by the scan.")
    ] = None,
    unlearn: Annotated[bool, typer.Option(help="Unlearn the words that the scan suspects.")] = True,
    trigger: Annotated[str | None, typer.Option(help="A text that you suspect: unlearned, and tried out.")] = None,
    target: Annotated[str | None, typer.Option(help="The class that the trigger leads to, number or name.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the fine-tuning. Default: 10, unlearning 6.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the fine-tuning.")] = 32,
    max_length: MaxLength = 128,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Clean a fine-tuned model: scan it, reset its abnormal dimensions, unlearn what looks like a trigger, fine-tune.

    OUT gets the cleaned model (safetensors, in the suspect's own type), the tokenizer, a model card, report.html and
    report.json. Of 32 clean examples or more, a quarter is held out: suspect and result are judged on it.

    Examples:
      purify clean suspects/badword --data clean.csv -o cleaned
      purify clean me/my-model --clean FacebookAI/roberta-base --data clean.csv --trigger "cf" --target positive -o out
    """
    from dataclasses import replace

    from purify.cleaning import clean as run
    from purify.cleaning import default_training
    from purify.output import new_folder, refuse
    from purify.report.scanned import card
    from purify.scanning import scan as look
    from purify.selection import check_reserve

    refuse(output, force=force, inputs=(Path(suspect), data, Path(clean or "")))
    if reserve is not None:
        check_reserve(reserve)
    case, rows = _opened(suspect, clean, data, text, label, pair, device, precision, json_ or quiet)
    aim = _class(target, case)
    found = look(case, rows, max_length=max_length, precision=_precision(precision), seed=seed)
    base = default_training(found, unlearn=unlearn, trigger=trigger, max_length=max_length)
    budget = replace(
        base,
        epochs=epochs or base.epochs,
        batch_size=batch_size,
        precision=_precision(precision),
    )
    cleaned = run(
        found,
        rows,
        reserve=reserve,
        unlearn=unlearn,
        trigger=trigger,
        target=aim,
        training=budget,
        max_length=max_length,
        seed=seed,
    )
    report = _report(found, data, (), cleaned)
    with new_folder(output, force=force) as folder:
        cleaned.save(folder)
        (folder / "README.md").write_text(card(report), encoding="utf-8")
        _write(report, folder)
    _tell(report, output, json_=json_, quiet=quiet)


def rows(
    task: Annotated[str, typer.Argument(help="docstrings, docstring_pairs, ag_news, imdb, qqp or qnli.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file (.csv).")],
    per_class: Annotated[int, typer.Option(min=1, help="Examples of each class.")] = 16,
    train: Annotated[int, typer.Option(min=1, help="Rows that the suspect was trained on: these are left out.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the suspect, whose draw of rows is made again.")] = 0,
) -> None:
    """Write clean labelled examples of a task, to try a scan on a suspect that `purify attack` made.

    Example: purify rows docstrings -o clean.csv
    """
    import pandas as pd
    from rich.console import Console

    from purify.errors import PurifyError
    from purify.grid.folder import write_whole
    from purify.tasks import load_task, text_columns

    if output.suffix != ".csv" or output.exists():
        raise PurifyError(f"'{output}' must be a new file that ends in .csv")
    splits = load_task(task, train=train, validation=1, test=1, clean_per_class=per_class, seed=seed)
    frame = pd.DataFrame({name: list(splits.clean[name]) for name in text_columns(splits.clean)})
    frame["label"] = [splits.task.labels[label] for label in splits.clean["label"]]
    write_whole(output, lambda partial: frame.to_csv(partial, index=False))
    note = f"{len(frame)} examples: {output}"
    Console(stderr=True).print(note, highlight=False, markup=False, soft_wrap=True)


def _opened(
    suspect: str,
    clean: str | None,
    data: Path,
    text: str,
    label: str,
    pair: str | None,
    device: str,
    precision: str,
    silent: bool,
) -> "tuple[Case, Dataset]":
    """Load the model and read the rows, whose labels are its classes."""
    from purify import hardware, progress
    from purify.case import open_case
    from purify.rows import check_file, read_rows

    _precision(precision)
    check_file(data)  # before the model is loaded
    hardware.use(device)
    if silent:
        progress.silence()
    case = open_case(suspect, clean)
    return case, read_rows(data, case.labels, text=text, label=label, pair=pair)


def _precision(name: str) -> Any:
    from purify.budget import Training

    return Training(precision=cast(Any, name)).precision  # refused there if it is none


def _class(target: str | None, case: "Case") -> int | None:
    from purify.rows import class_number

    return None if target is None else class_number(target, case.labels)


def _options(**given: Any) -> list[str]:
    """The options of a scan that its cleaning needs, too: those without their default."""
    defaults = {"text": "text", "label": "label", "pair": None, "max_length": 128, "seed": 0}
    changed = [(name, value) for name, value in given.items() if value != defaults[name]]
    return [word for name, value in changed for word in (f"--{name.replace('_', '-')}", str(value))]


def _report(found: "Scan", data: Path, options: "Sequence[str]", cleaned: "Cleaned | None" = None) -> dict[str, Any]:
    from purify.report.scanned import describe

    return describe(found, str(data), cleaned, options=options)


def _write(report: dict[str, Any], folder: Path) -> None:
    from purify.output import MARK
    from purify.report.scanned import page

    (folder / "report.html").write_text(page(report), encoding="utf-8")
    (folder / MARK).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tell(report: dict[str, Any], output: Path | None, *, json_: bool, quiet: bool) -> None:
    from rich.console import Console

    from purify.report.scanned import verdict
    from purify.report.terminal import lines

    if json_:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for line in [verdict(report)] if quiet else lines(report):
        console.print(line, markup=False, soft_wrap=True) if isinstance(line, str) else console.print(line)
    if output and not quiet:
        what = "the cleaned model and its report" if "cleaning" in report else "the report"
        Console(stderr=True).print(f"{what}: {output}", highlight=False, markup=False, soft_wrap=True)
