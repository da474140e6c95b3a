# Commands of a contributor: https://just.systems. One environment serves all, so that nox would add nothing.

# List the commands.
default:
    @just --list

# Make the environment, and install the hooks.
setup:
    python3.11 -m venv .venv
    .venv/bin/pip install -q -r tests/requirements.txt -e .
    .venv/bin/pre-commit install

# Run tests, for example `just test tests/unit/test_chunks.py -k box`.
test *arguments:
    .venv/bin/python -m pytest {{arguments}}

# Run the tests of single parts; they need only this installation.
unit:
    .venv/bin/python -m pytest -n 2 tests/unit

# Run the tests of several parts together, with Beam, emulators and servers.
integration:
    .venv/bin/python -m pytest -n 4 tests/integration

# Run the tests of whole commands.
e2e:
    .venv/bin/python -m pytest -n 4 tests/e2e

# Run the tests of the pages in Chromium.
browser:
    .venv/bin/python -m pytest -n 2 tests/browser

# Format, and mend what can be mended.
format:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Check types.
types:
    .venv/bin/mypy

# Run everything on this machine, with a graph to edit.
up:
    .venv/bin/l2features up

# Build what is published, and check it.
build:
    .venv/bin/python -m build
    .venv/bin/twine check --strict dist/*

# Run everything that must pass.
ci:
    .ci/run
