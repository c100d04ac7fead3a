"""GGUF through a person's own llama.cpp checkout: what is run, what is kept, and what is said when it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.export import ExportRefused
from engine.export.gguf import CONVERTER, ConversionFailed, converter_of, export_gguf

STAND_IN = '''
"""Takes the arguments of llama.cpp's converter and writes a file of the magic and them."""
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--outfile")
parser.add_argument("--outtype")
given = parser.parse_args()
assert (pathlib.Path(given.model) / "config.json").is_file()
print("INFO: writing", flush=True)
{body}
'''
WRITES = 'pathlib.Path(given.outfile).write_bytes(b"GGUF" + given.outtype.encode())'


@pytest.fixture
def merged(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "my model"))


def checkout(folder: Path, body: str) -> Path:
    """A folder with a converter that does `body`: the person's external program."""
    folder.mkdir(exist_ok=True)
    (folder / CONVERTER).write_text(STAND_IN.format(body=body))
    return folder


def test_the_file_stands_in_the_model_s_folder_once_it_is_whole(merged: Path, tmp_path: Path) -> None:
    said: list[str] = []
    exported = export_gguf(merged, checkout(tmp_path / "llama.cpp", WRITES), "q8_0", on_line=said.append)
    assert exported.path == merged / "my-model-q8_0.gguf"
    assert exported.path.read_bytes() == b"GGUFq8_0"
    assert exported.size_bytes == 8
    assert said == ["INFO: writing"]
    assert not list(merged.glob(".*")), "nothing staged is left"
    with pytest.raises(ExportRefused, match="exists and is left as it is"):
        export_gguf(merged, tmp_path / "llama.cpp", "q8_0")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'sys.exit("ERROR: Model Foo is not supported")',
            r"ended with code 1.*\n.*\n  ERROR: Model Foo is not supported",
        ),
        ("raise ModuleNotFoundError(\"No module named 'gguf'\")", r"pip install -r .*llama\.cpp/requirements\.txt"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
        ("pass", "wrote no file"),
        ('pathlib.Path(given.outfile).write_bytes(b"oops")', "no GGUF file"),
        (f"{WRITES}; sys.exit(3)", "ended with code 3"),
    ],
)
def test_a_failure_is_told_and_leaves_nothing(body: str, message: str, merged: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in merged.iterdir())
    with pytest.raises(ConversionFailed, match=message):
        export_gguf(merged, checkout(tmp_path / "llama.cpp", body))
    assert sorted(path.name for path in merged.iterdir()) == before


def test_what_is_no_checkout_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="There is no"):
        converter_of(tmp_path / "nowhere")
    with pytest.raises(ExportRefused, match=r"it is no llama\.cpp checkout"):
        converter_of(tmp_path)
    (tmp_path / "convert-hf-to-gguf.py").write_text("")
    with pytest.raises(ExportRefused, match=r"an old llama\.cpp"):
        converter_of(tmp_path)
