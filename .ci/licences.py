"""Licences, sources and bans of the dependencies, against deny.toml: for machines without cargo-deny.

    python3 .ci/licences.py deny.toml METADATA.json     (of `cargo metadata --locked --format-version 1`)

An expression is satisfied when every operand of AND and one of OR is allowed; `A WITH exception` counts as itself only.
"""

import json
import re
import sys
import tomllib


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether the SPDX expression can be satisfied; the old `A/B` is `A OR B`. AND binds tighter than OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def any_of(i: int) -> tuple[bool, int]:
        ok, i = all_of(i)
        while i < len(tokens) and tokens[i] == "OR":
            right, i = all_of(i + 1)
            ok = ok or right
        return ok, i

    def all_of(i: int) -> tuple[bool, int]:
        ok, i = one(i)
        while i < len(tokens) and tokens[i] == "AND":
            right, i = one(i + 1)
            ok = ok and right
        return ok, i

    def one(i: int) -> tuple[bool, int]:
        if tokens[i] == "(":
            ok, i = any_of(i + 1)
            return ok, i + 1
        name, i = tokens[i], i + 1
        if i < len(tokens) and tokens[i] == "WITH":
            name, i = f"{name} WITH {tokens[i + 1]}", i + 2
        return name in allowed, i

    return any_of(0)[0]


def self_check() -> None:
    """A check that cannot fail is a defect: known expressions, both ways."""
    allowed = {"MIT", "Apache-2.0", "Unicode-3.0"}
    rows = {
        "MIT": True,
        "GPL-3.0": False,
        "GPL-3.0 OR MIT": True,
        "(MIT OR GPL-3.0) AND Unicode-3.0": True,
        "MIT AND GPL-3.0": False,
        "MIT OR GPL-2.0 AND GPL-3.0": True,
        "MIT/Unlicense": True,
        "Apache-2.0 WITH LLVM-exception": False,
        "Apache-2.0 WITH LLVM-exception OR MIT": True,
    }
    for expression, expected in rows.items():
        assert is_allowed(expression, allowed) == expected, expression


def main() -> int:
    """Prints what is wrong; 0 if nothing is."""
    self_check()
    with open(sys.argv[1], "rb") as file:
        deny = tomllib.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        packages = json.load(file)["packages"]
    allowed = set(deny["licenses"]["allow"])
    banned = {ban["crate"]: ban["reason"] for ban in deny["bans"]["deny"]}
    registries = {f"registry+{url}" for url in deny["sources"]["allow-registry"]}
    wrong = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        if not licence or not is_allowed(licence, allowed):
            wrong.append(f"{name}: licence {licence}, expected some of {', '.join(sorted(allowed))}")
        if package["source"] is not None and package["source"] not in registries:
            wrong.append(f"{name}: source {package['source']}, expected {', '.join(registries)}")
        if package["name"] in banned:
            wrong.append(f"{name}: {banned[package['name']]}")
    print("\n".join(wrong) or f"{len(packages)} packages: licences, sources and bans are as deny.toml says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
