#!/usr/bin/env python3
"""Software bill of materials of the program, CycloneDX 1.5 JSON: what is linked into it, what builds it, and the models of the bundle.

    python3 deploy/sbom.py [--features LIST] [--target TRIPLE] [--bundle DIR] > attendant.cdx.json

From `cargo metadata --locked`, Cargo.lock (the crates' checksums) and the bundle's folder; nothing is built and nothing else is asked. The same
checkout gives the same bytes: there is no time in it, and its serial number comes from its content. Before it is printed, it is checked against
what the specification requires.
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPEC = "1.5"
TYPES = {"application", "library", "machine-learning-model"}
SCOPES = {"required", "excluded"}


def licences(package: dict) -> list[dict]:
    """An SPDX expression; the old `A/B` is `A OR B`."""
    if package["license"]:
        return [{"expression": package["license"].replace("/", " OR ")}]
    return [{"license": {"name": f"see {pathlib.PurePath(package['license_file'] or 'its sources').name}"}}]


def purl(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def is_linked(kinds: list[dict]) -> bool:
    return any(kind["kind"] is None for kind in kinds)


def is_built(kinds: list[dict]) -> bool:
    return any(kind["kind"] != "dev" for kind in kinds)


def reached(root: str, nodes: dict[str, dict], follow) -> set[str]:
    """Packages that `root` leads to over edges that `follow` accepts. Whatever is behind a procedural macro is there at build time only."""
    seen, waiting = {root}, [root]
    while waiting:
        for edge in nodes[waiting.pop()]["deps"]:
            if follow(edge) and edge["pkg"] not in seen:
                seen.add(edge["pkg"])
                waiting.append(edge["pkg"])
    return seen


def models(bundle: pathlib.Path) -> list[dict]:
    manifest = tomllib.loads((bundle / "bundle.toml").read_text(encoding="utf-8"))["bundle"]
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{manifest['name']}/{file.name}",
            "name": f"{manifest['name']}/{file.name}",
            "version": manifest["version"],
            "scope": "required",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(file.read_bytes()).hexdigest()}],
        }
        for file in sorted(bundle.glob("*.onnx"))
    ]


def make(metadata: dict, lock: dict, bundle: pathlib.Path | None) -> dict:
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}

    def is_macro(package: dict) -> bool:
        return any("proc-macro" in target["kind"] for target in package["targets"])

    linked = reached(root, nodes, lambda e: is_linked(e["dep_kinds"]) and not is_macro(packages[e["pkg"]]))
    everything = reached(root, nodes, lambda e: is_built(e["dep_kinds"]))

    def component(package: dict, kind: str, scope: str | None) -> dict:
        entry = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"]}
        if package["description"]:
            entry["description"] = " ".join(package["description"].split())
        if scope:
            entry["scope"] = scope
        checksum = checksums.get((package["name"], package["version"]))
        if checksum:
            entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        entry["licenses"] = licences(package)
        entry["purl"] = purl(package)
        if package["repository"]:
            entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return entry

    others = sorted(everything - {root}, key=lambda i: (packages[i]["name"], packages[i]["version"]))
    components = [component(packages[i], "library", "required" if i in linked else "excluded") for i in others]
    if bundle:
        components += models(bundle)
    edges = [
        {
            "ref": purl(packages[i]),
            "dependsOn": sorted({purl(packages[e["pkg"]]) for e in nodes[i]["deps"] if is_built(e["dep_kinds"])}),
        }
        for i in [root, *others]
    ]
    bom = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "deploy/sbom.py"}]},
            "component": component(packages[root], "application", None),
        },
        "components": components,
        "dependencies": edges,
    }
    content = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    return bom


def mistakes(bom: dict, own: set[str]) -> list[str]:
    """What the specification requires and this document lacks; `own` are the packages of this checkout, which no registry has a checksum of."""
    wrong = []
    if bom.get("bomFormat") != "CycloneDX" or bom.get("specVersion") != SPEC:
        wrong.append(f"bomFormat and specVersion: expected CycloneDX {SPEC}")
    if not isinstance(bom.get("version"), int) or bom["version"] < 1:
        wrong.append("version: expected an integer from 1 on")
    if not re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom.get("serialNumber", "")):
        wrong.append("serialNumber: expected urn:uuid:...")
    refs = [c.get("bom-ref") for c in [bom["metadata"]["component"], *bom["components"]]]
    wrong += [f"{ref}: two components have this bom-ref" for ref in sorted({r for r in refs if refs.count(r) > 1}, key=str)]
    for c in [bom["metadata"]["component"], *bom["components"]]:
        where = c.get("bom-ref", c)
        if c.get("type") not in TYPES or not c.get("name") or not c.get("version"):
            wrong.append(f"{where}: a component needs type, name and version")
        if c.get("scope", "required") not in SCOPES:
            wrong.append(f"{where}: scope {c['scope']!r}")
        for h in c.get("hashes", []):
            if h.get("alg") != "SHA-256" or not re.fullmatch(r"[0-9a-f]{64}", h.get("content", "")):
                wrong.append(f"{where}: hash {h}")
        if c.get("type") == "library" and not c.get("hashes") and where not in own:
            wrong.append(f"{where}: Cargo.lock has no checksum of it")
        for entry in c.get("licenses", []):
            if not entry.get("expression") and not entry.get("license", {}).get("name"):
                wrong.append(f"{where}: a licence needs an expression or a name")
        if c.get("type") != "machine-learning-model" and not c.get("licenses"):
            wrong.append(f"{where}: no licence")
    for edge in bom["dependencies"]:
        wrong += [f"{edge['ref']}: depends on {r}, which is no component" for r in [edge["ref"], *edge["dependsOn"]] if r not in refs]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Software bill of materials, CycloneDX JSON")
    parser.add_argument("--features", default="v4l,alsa,gpio,web,mqtt", help="features that the program is built with")
    parser.add_argument("--target", default="x86_64-unknown-linux-gnu", help="what it is built for")
    parser.add_argument("--bundle", type=pathlib.Path, default=ROOT / "models/kiosk", help="bundle whose models are listed")
    options = parser.parse_args()
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", options.features, "--filter-platform", options.target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    bom = make(metadata, lock, options.bundle)
    wrong = mistakes(bom, {purl(package) for package in metadata["packages"] if package["source"] is None})
    for mistake in wrong:
        print(f"sbom: {mistake}", file=sys.stderr)
    if wrong:
        return 1
    json.dump(bom, sys.stdout, indent=1, sort_keys=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
