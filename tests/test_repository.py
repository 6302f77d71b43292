"""One repository address, everywhere the same."""

import re
import shutil
import subprocess

import pytest
import repository as script
from bookfiles import ROOT, repository
from setup_cell import setup_source

ADDRESS = re.compile(r"(?:github\.com/|colab\.research\.google\.com/github/)([\w.-]+/[\w.-]*\w)")
# GitHub addresses in the text that are not this book's.
OTHERS = set()
ANOTHER = "https://" + "github.com/another-name/another-book"


def tracked_texts():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in listed.stdout.splitlines())
    return [path for path in paths if path.suffix in script.SUFFIXES and path.exists()]


def slugs(text):
    return {slug.removesuffix(".git") for slug in ADDRESS.findall(text)}


def test_every_address_is_this_one():
    ours = repository().removeprefix("https://github.com/")
    for path in tracked_texts():
        strange = slugs(path.read_text(encoding="utf-8")) - {ours} - OTHERS
        assert not strange, f"{path.relative_to(ROOT)}: {strange}"


def test_the_script_changes_all_of_them_once(tmp_path):
    ours = repository().removeprefix("https://github.com/")
    holders = []
    for path in tracked_texts():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        if ours in slugs(path.read_text(encoding="utf-8")):
            holders.append(path.relative_to(ROOT))
    assert sorted(script.rewrite(tmp_path, ANOTHER)) == sorted(holders)
    for name in holders:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert slugs(text) - OTHERS == {"another-name/another-book"}
        assert ours.split("/")[0] + ".github.io" not in text
    assert script.rewrite(tmp_path, ANOTHER + ".git") == []


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a/b",
        "https://example.org/a/b",
        *(f"https://github.com/{x}" for x in ("a", "a_/b", "a/b/c")),
    ],
)
def test_other_forms_are_refused(address):
    with pytest.raises(ValueError, match="not the address of a GitHub repository"):
        script.parse(address)


def test_the_set_up_cell_installs_from_it():
    assert f'"git+{repository()}"' in setup_source()
    assert "--no-deps" in setup_source()
    compile(setup_source(), "set-up cell", "exec")
