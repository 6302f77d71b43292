"""Write the address of the book's repository everywhere it stands.

python tools/repository.py https://github.com/NAME/BOOK

`_config.yml` holds the address. Every file that names the old one gets the new one: notebooks with
their Colab links and set-up cells, pages, README, CITATION.cff, pyproject.toml. Running it twice
changes nothing more.
"""

import os
import re
import sys
from pathlib import Path

import yaml

SUFFIXES = {".ipynb", ".md", ".yml", ".yaml", ".cff", ".toml"}
SKIPPED = {".git", ".venv", "_build", "__pycache__"}
# GitHub's rules: an account has letters, digits and single hyphens; a repository also . and _
ACCOUNT = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,38}"
ADDRESS = re.compile(rf"https://github\.com/({ACCOUNT})/([A-Za-z0-9._-]+)")


def parse(address):
    """The account and the name in an address; ValueError if it is no GitHub repository's."""
    found = ADDRESS.fullmatch(address.rstrip("/").removesuffix(".git"))
    if not found:
        raise ValueError(
            f"not the address of a GitHub repository: {address!r}; "
            "it must be https://github.com/NAME/BOOK"
        )
    return found.groups()


def text_files(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (Path(folder) / name for name in sorted(names) if Path(name).suffix in SUFFIXES)


def rewrite(root, address):
    """Put `address` for the present one in all files below `root`; returns those that changed."""
    name, book = parse(address)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    present = config["repository"]["url"].removeprefix("https://github.com/")
    old_name, old_book = map(re.escape, present.split("/"))
    end = r"(?![A-Za-z0-9_-])"
    replacements = {
        # github.com/A/B and colab.research.google.com/github/A/B
        rf"(github(?:\.com)?/){old_name}/{old_book}{end}": rf"\g<1>{name}/{book}",
        # the published pages
        rf"{old_name}\.github\.io/{old_book}{end}": f"{name}.github.io/{book}",
    }
    changed = []
    for path in text_files(root):
        before = after = path.read_bytes().decode("utf-8")
        for pattern, replacement in replacements.items():
            after = re.sub(pattern, replacement, after)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(path.relative_to(root))
    return changed


def main(arguments):
    if len(arguments) != 1:
        raise SystemExit("usage: make repository URL=https://github.com/NAME/BOOK")
    try:
        changed = rewrite(Path(__file__).resolve().parents[1], arguments[0])
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{len(changed)} files changed" + "".join(f"\n  {path}" for path in changed))


if __name__ == "__main__":
    main(sys.argv[1:])
