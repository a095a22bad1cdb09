"""What a user installs."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_nothing_but_the_package_and_its_schemas(tmp_path: Path) -> None:
    """No tests, no topologies; each schema is where the code looks for it when installed."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"streamsched"}
    schemas = {Path(name).name for name in names if name.startswith("streamsched/schemas/")}
    assert schemas >= {path.name for path in (ROOT / "schemas").glob("*.json")} != set()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "streamsched").rglob("*.py")}
    assert modules <= set(names)
