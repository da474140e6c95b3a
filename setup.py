"""An optional README, which pyproject.toml cannot declare. Image builds do not copy the README."""

from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"

setup(
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
)
