"""contents.py WHEEL FOLDER: what the wheel holds, unpacked to FOLDER, is what every torch and Python can use.

Ends with 1 and a sentence for each thing that is not as it should be.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

# What the machine is promised to have: manylinux_2_28's libraries, and torch's.
PROMISED = re.compile(
    r"lib(torch|torch_cpu|c10|c|m|dl|pthread|rt|stdc\+\+|gcc_s)\.so[.0-9]*|ld-linux-x86-64\.so\.2"
)
ABI = re.compile(r"\b(at|c10|caffe2|torch)::(?!stable::|headeronly::)")


def problems(wheel: Path, folder: Path) -> list[str]:
    """What is wrong with the wheel, a sentence each."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    found = []
    packages = {path.name for path in folder.iterdir() if not path.name.endswith(".dist-info")}
    if packages != {"bert_op"}:
        found.append(f"it installs {', '.join(sorted(packages))}, and should install bert_op alone")
    libraries = sorted(path.relative_to(folder) for path in folder.rglob("*.so*"))
    if [str(path) for path in libraries] != ["bert_op/libBertOpPT.so"]:
        found.append(
            f"its libraries are {', '.join(map(str, libraries))}, and should be bert_op/libBertOpPT.so"
        )
        return found
    library = folder / libraries[0]
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", said("readelf", "-d", library))
    if strange := [name for name in needed if not PROMISED.fullmatch(name)]:
        found.append(f"the library needs {', '.join(strange)}")
    undefined = said("nm", "-DC", "--undefined-only", library).splitlines()
    if tied := [line.split(maxsplit=1)[1] for line in undefined if ABI.search(line)]:
        found.append(f"the library uses torch beyond its stable ABI: {'; '.join(tied)}")
    if python := [line for line in undefined if re.search(r"\b_?Py[A-Z_]", line)]:
        found.append(f"the library uses Python: {'; '.join(python)}")
    audit = [Path(sys.executable).with_name("torch-abi-audit"), "--verbose", "--check", "torch", library]
    done = subprocess.run(list(map(str, audit)), capture_output=True, text=True, check=False)
    print(done.stdout.strip())
    if done.returncode:
        found.append(f"torch-abi-audit ends with {done.returncode}: {done.stderr.strip()}")
    return found


def said(*command: object) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]), Path(sys.argv[2]))
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(bool(wrong))
