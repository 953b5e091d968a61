"""pip_settings.py FOLDER: this user's pip settings for a build in a container, as FOLDER/pip.conf.

What they name on this machine (a certificate, folders of wheels, an index in files) is to be mounted there:
FOLDER/volumes has a line HERE:THERE for each, and pip.conf says THERE. Environment variables of pip count.
"""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

# A place of its own: in another, a package of the container may want to put something.
THERE = "/run/pip"
# Of this machine alone: where pip keeps or puts things, and what it says meanwhile.
LEFT_OUT = {"cache-dir", "target", "prefix", "user", "require-virtualenv", "log"}
FILES = "file://"


def moved(word: str, volumes: dict[Path, str]) -> str:
    """The word of a setting, with a path of this machine replaced by its place in the container."""
    path = Path(word.removeprefix(FILES))
    if not (path.is_absolute() and path.exists()):
        return word
    if word.startswith(FILES):  # an index names files that lie beside it
        return f"{FILES}{volumes.setdefault(path.parent, f'{THERE}/{len(volumes)}')}/{path.name}"
    return volumes.setdefault(path, f"{THERE}/{len(volumes)}")


def main(folder: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings, volumes = configparser.RawConfigParser(), dict[Path, str]()
    settings.add_section("global")
    # The environment comes last, because it wins.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, quoted = line.partition("=")
        section, _, option = name.removeprefix(":env:").rpartition(".")
        if option in LEFT_OUT:
            continue
        if section and not settings.has_section(section):
            settings.add_section(section)
        words = [moved(word, volumes) for word in str(ast.literal_eval(quoted)).split()]
        settings.set(section or "global", option, "\n".join(words))
    with (folder / "pip.conf").open("w") as file:
        settings.write(file)
    (folder / "volumes").write_text("".join(f"{here}:{there}\n" for here, there in volumes.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
