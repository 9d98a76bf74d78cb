"""``distseg export``: the winner as one TorchScript file."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    name: Annotated[str, typer.Argument(metavar="STUDY|RUN", help="A study (its best trial) or a run.")],
    out: Annotated[Path, typer.Option(metavar="MODEL.ts", help="The file to write; one that exists is replaced.")],
    onnx: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="Also write ONNX, checked with ONNX Runtime.")
    ] = None,
    program: Annotated[
        Path | None, typer.Option(metavar="MODEL.pt2", help="Also write a program of torch.export.")
    ] = None,
    trial: Annotated[str | None, typer.Option(metavar="ID", help="This trial of the study, e.g. 0003.")] = None,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Write a model as one file that needs torch alone: uint8 images in, masks at their own size out.

    Example:

        distseg export first --out model.ts
    """
    from distseg.data.cache import ShardCache
    from distseg.errors import InputError
    from distseg.export.build import export as export_run
    from distseg.export.portable import check_onnx_installed
    from distseg.home import Home
    from distseg.leaderboard.choose import trial_folder

    for option, path, example in (
        ("out", out, "model.ts"),
        ("onnx", onnx, "model.onnx"),
        ("program", program, "model.pt2"),
    ):
        if path is not None and path.is_dir():
            raise InputError(f"--{option} {path}: is a folder; give the path of a file, such as {path / example}")
    if onnx is not None:
        check_onnx_installed()
    folders = Home.from_environment(home)
    manifest = export_run(
        trial_folder(folders.find(name), trial), out, ShardCache.of(folders), onnx=onnx, program=program
    )
    typer.echo(
        f"{out}: trial {manifest.trial}, {manifest.metric} {manifest.metrics[manifest.metric]:.4f} "
        f"on {manifest.samples} validation images, measured on the file; "
        f"masks agree with the model on {min(each.mask_agreement for each in manifest.parity):.4%} of pixels"
    )
    for path in (onnx, program):
        if path is not None:
            typer.echo(f"{path}: the same model, checked against it and measured on its own")
