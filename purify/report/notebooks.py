"""Run notebooks with other parameters: papermill, behind a check that refuses what a notebook does not know."""

import ast
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from purify.errors import PurifyError


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        PurifyError: there is no such file, or it is not a notebook.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.ipynb")) if path.parent.is_dir() else []
        choice = f"; {path.parent} has {', '.join(near)}" if near else ""
        raise PurifyError(f"there is no notebook {path}{choice}")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError) as error:
        raise PurifyError(f"{path} is not a Jupyter notebook") from error


def defaults(path: Path) -> dict[str, Any]:
    """Return the parameters of a notebook and their defaults: the literals of the cell tagged ``parameters``.

    Raises:
        PurifyError: no such cell, or it holds something else than assignments of literals.
    """
    tagged = [cell for cell in read_notebook(path).cells if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise PurifyError(f"{path} must have one cell tagged 'parameters', it has {len(tagged)}")
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    found[name] = ast.literal_eval(value)
                except ValueError as error:
                    raise PurifyError(f"{path}: the default of '{name}' is not a plain literal") from error
            case _:
                raise PurifyError(f"{path}: line {statement.lineno} of the parameters cell is not 'name = literal'")
    return found


def resolve(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn given values into the types of a notebook's defaults.

    Strings, as they come from a command line, are read as the type that is expected.

    Raises:
        PurifyError: an unknown name (with the valid ones) or a value of the wrong type.
    """
    known = defaults(path)
    resolved = {}
    for name, value in given.items():
        if name not in known:
            raise PurifyError(f"{path.name} has no parameter '{name}': choose from {', '.join(known)}")
        resolved[name] = _typed(name, value, known[name])
    return resolved


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, str):
        if isinstance(value, str):
            return value
    else:
        parsed = value
        if isinstance(value, str):
            text = value.strip()
            with contextlib.suppress(ValueError, SyntaxError):
                parsed = {"true": True, "false": False}.get(text.lower()) if text.isalpha() else ast.literal_eval(text)
        if _fits(parsed, default):
            return float(parsed) if isinstance(default, float) else parsed
    raise PurifyError(f"the parameter '{name}' must be {described(default)}, like {default!r}, not {value!r}")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, list):
        return isinstance(value, list) and all(_fits(item, default[0]) for item in value if default)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))


def described(default: Any) -> str:
    """Say in words what the value of a parameter must be, by its default."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if isinstance(default, list):
        return f"a list, each item {names[type(default[0])]}" if default else "a list"
    return names[type(default)]


def run_notebook(path: Path, given: Mapping[str, Any], output: Path, trace: Path | None = None) -> None:
    """Run a notebook with parameters and keep the executed copy, even when a cell fails.

    Progress (cells, and what the cells report) is shown on standard error.

    Args:
        path: The notebook.
        given: Its parameters.
        output: The executed copy.
        trace: Gets the names of the project's files that it read (`purify.report.traced`).

    Raises:
        PurifyError: bad parameters (before a cell runs), or a failed cell, which is named.
    """
    parameters = resolve(path, given)
    output.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--IPKernelApp.log_level=ERROR"]
    if trace:
        line = f"__import__('purify.report.traced').report.traced.trace({str(trace.absolute())!r}, get_ipython())"
        arguments.append(f"--IPKernelApp.exec_lines={[line]!r}")
    try:
        with _relayed(path.stem):
            papermill.execute_notebook(
                path,
                output,
                parameters,
                kernel_name="python3",
                language="python",
                log_output=True,
                progress_bar={"desc": path.stem},
                extra_arguments=arguments,
            )
    except PapermillExecutionError as error:
        ran = (cell for cell in read_notebook(output).cells if cell.get("execution_count") == error.exec_count)
        first = next((cell.source.strip().partition("\n")[0] for cell in ran), "?")
        raise PurifyError(
            f"{path.name} failed in cell [{error.exec_count}], which begins with '{first}', with {error.ename}: "
            f"{error.evalue}; the executed copy is {output}"
        ) from error
    except (DeadKernelError, NoSuchKernel) as error:
        raise PurifyError(f"{path.name} lost its Python process, perhaps for want of memory ({error})") from error


@contextlib.contextmanager
def _relayed(name: str) -> Iterator[None]:
    """Relay the progress bars of the cells, a line for each state; all other output stays in the copy."""
    logger = logging.getLogger("papermill")
    handler = _BarRelay(name)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _BarRelay(logging.Handler):
    """Print the last state of a progress bar that a cell wrote to its standard error."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self.name = name

    def emit(self, record: logging.LogRecord) -> None:
        states = [line.strip() for line in record.getMessage().replace("\r", "\n").splitlines() if "%|" in line]
        if states:
            tqdm.write(f"  {self.name}: {states[-1]}", file=sys.stderr)
