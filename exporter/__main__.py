"""`python -m exporter`, and the command `segment-exporter` of the installed package."""

import gc
import sys


def main() -> int:
    """Run the command line of this process."""
    # What importing makes stays for good. To look for garbage in it takes a fifth of the start.
    gc.disable()
    try:
        from exporter.cli.main import main as run
    except ModuleNotFoundError as exc:
        return _say_what_is_missing(exc.name or "")
    gc.freeze()
    gc.enable()
    return run()


def _say_what_is_missing(module: str) -> int:
    if module.partition(".")[0] == "exporter":
        raise ModuleNotFoundError(f"the package is incomplete: {module}", name=module)
    sys.stderr.write(
        f"Error: The Python package {module} is not installed.\n"
        f"Do: {sys.executable} -m pip install -r requirements-exporter.txt\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
