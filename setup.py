"""Installs the packages ``l2features``, ``beam_jobs`` and ``api``, and the command ``l2features``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "l2features" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

COMPUTE = [
    "blosc>=1.11",
    "cloud-files>=6.4",
    "cloud-volume>=12.15",
    "compressed-segmentation>=2.3",
    "compresso>=3.3",
    "crackle-codec>=0.20",
    "edt>=3.1",
    "google-cloud-storage>=3",
    "numba==0.68.1",  # docs/decisions/simd.md: vectors and cache locators use its internals
    "pebble>=5.2",
    "python-json-logger>=3",
    "scikit-learn>=1.4",
    "threadpoolctl>=3",
]
BIGTABLE = [
    "google-cloud-bigtable>=2.42,<2.51",  # docs/decisions/bigtable-client.md
    "google-cloud-storage>=3",
]
PUBSUB = ["google-cloud-pubsub>=2.27"]
SKELETONS = ["scipy>=1.11"]
DELTA = ["deltalake>=1.6,<1.7"]
QUERY = ["duckdb>=1.2", "polars>=1"]
VIEWER = ["neuroglancer>=2.40,<2.41"]  # later ones need a google-apitools that Beam excludes
JOBS = [
    *COMPUTE,
    *BIGTABLE,
    *PUBSUB,
    *DELTA,
    "apache-beam[gcp]>=2.77,<2.78",
]
API = [
    *COMPUTE,
    *BIGTABLE,
    *PUBSUB,
    *SKELETONS,
    *VIEWER,
    "flask>=3",
    "flask-cors>=6",
    "flask-openapi3[swagger]>=4.3",
    "gunicorn>=27",
    "isal>=1.7",
    "middle-auth-client>=3.19",
    "prometheus-client>=0.21",
    "pydantic-settings>=2.6",
]

setup(
    name="l2features",
    version=VERSION,
    license="GPL-3.0-or-later",
    description="Compute, store and serve features of level-2 nodes of chunked graphs",
    packages=find_packages(include=["l2features*", "beam_jobs*", "api*"]),
    package_data={
        "api": [
            *("pages/*.html", "pages/static/*", "pages/static/uplot/*"),
            *("viewer/*.html", "viewer/assets/*"),  # where `npm run build` in viewer/ has made it
        ],
        "l2features": ["py.typed", "testing/golden.npz"],
    },
    python_requires=">=3.11",
    install_requires=[
        "cachetools>=5",
        "click>=8.1",
        "numpy>=2.0,<2.5",
        "orjson>=3.10",
        "pyarrow>=18",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "requests>=2.32",
        "rich>=13",
        "tenacity>=9",
        "tqdm>=4.66",
        "zstandard>=0.23",
    ],
    extras_require={  # l2features.core.extras names the extra of a missing module
        "compute": COMPUTE,
        "bigtable": BIGTABLE,
        "skeletons": SKELETONS,
        "delta": DELTA,
        "jobs": JOBS,
        "api": API,
        "query": QUERY,
        "viewer": VIEWER,
        "all": sorted({*JOBS, *API, *QUERY, *DELTA}),
        "test": [
            "caveclient>=8.2,<8.3",
            "compose-spec>=0.2",
            "fafbseg>=3.2,<3.3",
            "fastremap>=1.15",
            "gcp-storage-emulator==2026.7.19",  # testing/storage_emulator.py uses its parts
            "hypothesis>=6",
            "jsonschema>=4.20",
            "kvdbclient>=0.7",
            "mypy>=1.10",
            "openapi-spec-validator>=0.7",
            "pcg-skel>=1.3,<1.4",
            "pillow>=10",
            "psutil>=5.9",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "schemathesis>=4",
            "selenium>=4.30",
            "tensorstore>=0.1.70",
            "trustme>=1.2",
            "types-PyYAML",
            "types-psutil",
            "types-requests",
            "types-tqdm",
        ],
    },
    entry_points={
        "console_scripts": ["l2features = l2features.cli:main"],
    },
)
