"""`export`: something to ship of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.export_push import push_adapter
from engine.cli.export_text import DOING, tell_adapter, tell_config, tell_gguf, tell_modelfile, tell_script
from engine.cli.output import AsJson, fail, print_json, printable, wrong_input_explained
from engine.cli.progress import bar
from engine.cli.watch import RunName, fail_of_job, found_run

if TYPE_CHECKING:
    from engine.export.gguf import GgufType
    from engine.jobs.subject import Subject
    from engine.runs.store import Run


def export(
    name: RunName,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", metavar="DIR", help="An adapter folder with its model card. The default."),
    ] = None,
    script: Annotated[
        Path | None, typer.Option("--script", metavar="FILE", help="The run as one Python file that needs no Loradeck.")
    ] = None,
    trl_yaml: Annotated[
        Path | None, typer.Option("--trl-yaml", metavar="FILE", help="A config for `trl sft --config`.")
    ] = None,
    modelfile: Annotated[
        Path | None, typer.Option("--modelfile", metavar="DIR", help="An Ollama Modelfile in a merged model's folder.")
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", metavar="DIR", help="A merged model's folder as one GGUF file.")
    ] = None,
    llama_cpp: Annotated[
        Path | None, typer.Option("--llama-cpp", metavar="PATH", help="With --gguf: your llama.cpp checkout.")
    ] = None,
    gguf_type: Annotated[
        str, typer.Option("--gguf-type", metavar="TYPE", help="With --gguf: bf16, f16, f32, q8_0 or auto.")
    ] = "bf16",
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Send the adapter folder to the hub, after asking."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: make a new repository public.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --push: do not ask.")] = False,
    base: Annotated[
        str | None, typer.Option("--base", metavar="OWNER/NAME", help="What the hub calls the base model.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="A checkpoint's step, or newest; without it the finished adapter."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make something to ship of a run: an adapter folder, a script, a config for trl, a Modelfile, a GGUF file."""
    from engine.export.gguf import TYPES

    if gguf_type not in TYPES:
        fail(f"--gguf-type is {gguf_type!r}; it can be {', '.join(TYPES)}.", 2, as_json)
    if gguf is not None and llama_cpp is None:
        fail("--gguf needs --llama-cpp: the folder of a llama.cpp checkout, whose converter is run.", 2, as_json)
    if push is not None and not yes and (as_json or not (sys.stdin.isatty() and sys.stderr.isatty())):
        fail("--push asks before it sends anything. Without a terminal, or with --json, add --yes.", 2, as_json)
    run = found_run(name, as_json)
    done: dict[str, Any] = {}
    with _explained(as_json):
        if script is not None:
            done["script"] = _script(run, script, as_json)
        if trl_yaml is not None:
            done["trl_yaml"] = _config(run, trl_yaml, as_json)
        if gguf is not None:
            assert llama_cpp is not None
            done["gguf"] = _gguf(gguf, llama_cpp, gguf_type, as_json)
        if modelfile is not None:
            done["modelfile"] = _modelfile(run, modelfile, as_json)
        if adapter is not None or not (done or push is not None):
            folder = adapter or Path(f"{run.id}-adapter")
            done["adapter"] = _adapter(_subject(run, checkpoint), folder, base, as_json)
        if push is not None:
            done["push"] = push_adapter(_subject(run, checkpoint), push, base, public, yes, as_json)
    if as_json:
        print_json(done)


def _subject(run: Run, checkpoint: str | None) -> Subject:
    from engine.jobs.subject import subject_of

    return subject_of(run, checkpoint)


def _adapter(subject: Subject, folder: Path, base: str | None, as_json: bool) -> dict[str, Any]:
    from engine.export.adapter import export_adapter
    from engine.export.vllm import serves

    exported = export_adapter(subject, folder.absolute(), base)
    if not as_json:
        tell_adapter(exported)
    return {
        "folder": str(exported.folder),
        "files": exported.files,
        "base_model": exported.base.name,
        "note": exported.base.note,
        "vllm": {"serves": serves(exported.vllm), "findings": [vars(finding) for finding in exported.vllm]},
    }


def _script(run: Run, path: Path, as_json: bool) -> dict[str, Any]:
    from engine.checks import read_spec
    from engine.export.script import export_script

    with _progress(as_json) as on_event:
        exported = export_script(run, read_spec(run.spec_path), path.absolute(), on_event)
    if not as_json:
        tell_script(exported)
    return {**vars(exported), "path": str(exported.path)}


def _config(run: Run, path: Path, as_json: bool) -> dict[str, Any]:
    from engine.checks import read_spec
    from engine.export.trl_yaml import export_trl_yaml

    with _progress(as_json) as on_event:
        exported = export_trl_yaml(run, read_spec(run.spec_path), path, on_event)
    if not as_json:
        tell_config(exported)
    template = exported.template_path
    return {
        "path": str(exported.path),
        "template_path": None if template is None else str(template),
        "differences": exported.differences,
    }


def _modelfile(run: Run, folder: Path, as_json: bool) -> dict[str, Any]:
    from engine.checks import read_spec
    from engine.export.modelfile import export_modelfile

    exported = export_modelfile(folder, read_spec(run.spec_path).model.trust_remote_code)
    if not as_json:
        tell_modelfile(exported)
    return {"path": str(exported.path), "family": exported.family, "notes": exported.notes}


def _gguf(folder: Path, checkout: Path, out_type: GgufType, as_json: bool) -> dict[str, Any]:
    from engine.export.gguf import export_gguf

    def say(line: str) -> None:
        typer.echo(f"  {printable(line)}", err=True)

    exported = export_gguf(folder, checkout, out_type, on_line=None if as_json else say)
    if not as_json:
        tell_gguf(exported)
    return {"path": str(exported.path), "size_bytes": exported.size_bytes}


@contextmanager
def _explained(as_json: bool) -> Iterator[None]:
    """Ends the command with a message and the exit code for whatever keeps an export from being made."""
    from engine.export import ExportRefused
    from engine.export.gguf import ConversionFailed
    from engine.export.push import PushFailed
    from engine.jobs.process import JobCancelled, JobFailed
    from engine.jobs.subject import NoAdapter

    with wrong_input_explained(as_json, "Nothing was exported"):
        try:
            yield
        except (ExportRefused, NoAdapter) as error:
            fail(str(error), 2, as_json)
        except (ConversionFailed, PushFailed) as error:
            fail(str(error), 1, as_json)
        except JobFailed as error:
            fail_of_job(error, as_json)
        except (KeyboardInterrupt, JobCancelled):
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            fail(f"{error.filename or 'The export'} cannot be written: {error.strerror or error}.", 1, as_json)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar, where stderr is a terminal."""
    if quiet:
        yield lambda event: None
        return
    with bar(DOING["data"]) as show:

        def tell(event: dict[str, Any]) -> None:
            if show is not None and event["type"] == "progress":
                show(DOING[event["doing"]], event["done"], event["total"])

        yield tell
