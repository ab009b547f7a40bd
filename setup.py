"Packaging of recsys_nb: everything it says is read from settings.ini."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

extras = {
    name: cfg[f"{name}_requirements"].split()
    for name in ("abtest", "viz", "als", "tune", "serve")
}
extras["all"] = sorted({r for reqs in extras.values() for r in reqs})
extras |= {
    name: cfg[f"{name}_requirements"].split()
    for name in ("spark", "postgres", "torchrec")
}  # engines and GPUs, not part of all
extras["dev"] = extras["all"] + cfg["dev_requirements"].split()

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=f"https://github.com/{cfg['user']}/{cfg['repo']}",
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["recsys_nb", "recsys_nb.*"]),
    include_package_data=True,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
    ],
    zip_safe=False,
)
