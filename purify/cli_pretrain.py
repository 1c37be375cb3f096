"""The command line that pre-trains a small model of another architecture: ``purify pretrain …``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def pretrain(
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder that the model goes to.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text file, a passage per line; repeatable (default: embedded corpus)."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task whose training texts are read too; repeatable.")] = None,
    layers: Annotated[int, typer.Option(help="Layers of the encoder.")] = 4,
    hidden: Annotated[int, typer.Option(help="Its width.")] = 256,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    vocabulary: Annotated[int, typer.Option(help="Entries of the byte-level BPE vocabulary.")] = 8000,
    length: Annotated[int, typer.Option(help="Tokens per row.")] = 128,
    steps: Annotated[int, typer.Option(help="Steps of AdamW.")] = 20_000,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Its largest value.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Of weights, masks and order.")] = 0,
) -> None:
    """Pre-train a small RoBERTa-like model on text at hand, as a second clean PLM where none can be downloaded.

    Minutes on a GPU, a night on a CPU. Killed, it goes on where it was when the same command is given again.

    Example: purify pretrain --task ag_news --task imdb -o plms/small-roberta
    """
    from purify.pretraining import HERE, Recipe, read_texts
    from purify.pretraining import pretrain as run

    recipe = Recipe(layers, hidden, heads, vocabulary, length, steps, batch_size, learning_rate, seed)
    texts = read_texts(text or [], task or [])
    named = [*map(str, text or []), *(f"training texts of {name}" for name in task or [])]
    card = run(texts, recipe, output, source=", ".join(named) or "the embedded corpus")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{HERE}: {card['parameters']:,} parameters, {card['tokens seen, at most']:,} tokens of {card['source']}"
    )
    console.print(f"perplexity of masked tokens on held-out passages: {card['held-out perplexity of masked tokens']}")
    Console(stderr=True).print(f"the model: {output}", highlight=False, markup=False, soft_wrap=True)
