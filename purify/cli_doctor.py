"""The command line that looks at the machine: ``purify doctor``."""

import json
from typing import Annotated, Any

import typer


def doctor(json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Tell what this machine has: versions, devices, whether the hub may be asked, caches; and what is amiss.

    Ends with status 1 if something is.

    Example: purify doctor
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found, amiss = _look()
    if json_:
        typer.echo(json.dumps({**found, "amiss": amiss}, ensure_ascii=False))
    else:
        table = Table(box=None, show_header=False)
        for name, value in found.items():
            table.add_row(Text(name), Text(str(value)))
        console = Console(highlight=False)
        console.print(table)
        for line in amiss or ["all is well"]:
            console.print(Text(line, style="red" if amiss else "green"))
    if amiss:
        raise typer.Exit(1)


def _look() -> tuple[dict[str, Any], list[str]]:
    """Return what was found, and what is amiss."""
    import os
    import platform
    import shutil
    from importlib.metadata import version

    import psutil
    import torch
    from huggingface_hub import constants

    from purify.errors import PurifyError
    from purify.hardware import device, has_bf16
    from purify.home import cache_folder
    from purify.plm import load_plm
    from purify.tasks import DATA_DIR

    amiss: list[str] = []
    names = ("purify-lm", "torch", "transformers", "datasets", "safetensors", "tokenizers", "peft")
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    cache = cache_folder()
    above = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(above, os.W_OK):
        amiss.append(f"{cache} cannot be written to: set XDG_CACHE_HOME to a folder of yours")
    try:
        bundled = f"sound, sha256 {load_plm().digest}…"
    except PurifyError as error:
        bundled = "missing or damaged"
        amiss.append(str(error))
    data = os.environ.get(DATA_DIR)
    found = {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "device": str(device()),
        "GPUs": ", ".join(gpus) or "none",
        "threads": torch.get_num_threads(),
        "bf16": "faster, and used" if has_bf16() else "not faster: fp32 is used",
        "memory": f"{psutil.virtual_memory().available >> 20} of {psutil.virtual_memory().total >> 20} MiB free",
        "hub": "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "asked for models that you name",
        "hub cache": constants.HF_HUB_CACHE,
        "own cache": f"{cache} ({shutil.disk_usage(above).free >> 30} GiB free)",
        "data folder": data or f"none ({DATA_DIR} is not set): tasks come from the hub",
        "bundled clean model": bundled,
    }
    return found, amiss
