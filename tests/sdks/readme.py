"""Runs the Python of the README against the command that stands above it there: readme.py BINARY README."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout

binary, readme = sys.argv[1:3]
text = open(readme, encoding="utf-8").read()
[code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
[command] = re.findall(r"^backstop (outage serve .*)$", text, re.MULTILINE)
promised = re.findall(r"# prints (.*)$", code, re.MULTILINE)

served = subprocess.Popen([binary, *command.split(), "--port", "0", "-o", "name", "--quiet"], stdout=subprocess.PIPE, text=True)
try:
    url = served.stdout.readline().strip()
    said = io.StringIO()
    with redirect_stdout(said):
        exec(compile(code.replace("http://127.0.0.1:7430", url), "README.md", "exec"), {})
finally:
    served.terminate()
    served.wait(timeout=10)
if said.getvalue().splitlines() != promised:
    sys.exit(f"the README promises {promised}, and its code says {said.getvalue()!r}")
print(f"ok   the Python of the README prints {promised}")
