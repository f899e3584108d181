"""What must hold of the Dockerfiles: nothing is done in them that tests/images.sh does not do, too. Usage: dockerfiles.py FILE…"""

import pathlib
import re
import sys


def check(path):
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    bases = [words for step, words in steps if step == "FROM"]
    for base in bases:
        image = base.split()[0]
        pinned = image == "scratch" or "@sha256:" in image or re.search(r":\d+\.\d+\.\d+-", image)
        assert pinned, f"the base {image} is not pinned to a digest or an exact tag"
    assert bases[-1] == "scratch", "the image holds more than what build.sh laid out"
    runs = [words for step, words in steps if step == "RUN"]
    kind = path.name.split(".")[0]
    assert runs[-1] == f"deploy/images/build.sh {kind} /image", f"it runs {runs[-1]}"
    assert len(runs) == 2 and runs[0].startswith("apt-get update && apt-get install -y --no-install-recommends "), f"it runs {runs}"
    last = steps[steps.index(["FROM", "scratch"]):]
    assert ["COPY", "--from=build /image/ /"] in last and ["USER", "65532:65532"] in last
    assert ["ENTRYPOINT", '["/opt/likeness/bin/likeness"]'] in last and not any(step in ("RUN", "ADD") for step, _ in last)
    for argument in ["LIKENESS_COMMIT", "LIKENESS_DIRTY", "SOURCE_DATE_EPOCH"]:
        assert ["ARG", argument] in steps, f"{argument} cannot be given"


for name in sys.argv[1:]:
    try:
        check(pathlib.Path(name))
    except AssertionError as error:
        sys.exit(f"{name}: {error}")
