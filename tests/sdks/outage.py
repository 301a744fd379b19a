"""Starts `backstop outage serve`, sets one fault at a time, and counts cases. Shared by the scripts beside it."""

import json
import subprocess
import sys
import urllib.request


class Outage:
    """A running `backstop outage serve`."""

    def __init__(self, binary, upstream=None):
        command = [binary, "outage", "serve", "--port", "0", "-o", "jsonl", "--quiet"]
        if upstream:
            command += ["--upstream", upstream]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = json.loads(self.process.stdout.readline())
        self.url, self.control = said["url"], said["control"]

    def fault(self, **rule):
        """Only this fault from now on; none when nothing is given."""
        order = {"clear": True}
        if rule:
            order["add"] = {key.replace("_", "-"): value for key, value in rule.items()}
        body = json.dumps(order).encode()
        with urllib.request.urlopen(urllib.request.Request(self.control, data=body)) as answer:
            answer.read()

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=10)


class Cases:
    """One line a case, and the count at the end."""

    def __init__(self, outage, client):
        self.outage, self.client, self.passed, self.failed = outage, client, 0, 0

    def _say(self, good, name, what):
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {self.client}: {name}: {' '.join(what.split()):.100}", flush=True)

    def answers(self, name, call, expected, **rule):
        """`call` returns `expected`, or something for which `expected` holds, under this fault."""
        self.outage.fault(**rule)
        try:
            said = call()
        except Exception as error:  # Whatever it is, it is the wrong thing here.
            return self._say(False, name, f"{type(error).__module__}.{type(error).__name__}: {error}")
        good = bool(expected(said)) if callable(expected) else said == expected
        self._say(good, name, repr(said))

    def raises(self, name, call, expected, holds=lambda error: True, **rule):
        """`call` raises exactly `expected` under this fault, and `holds` of it."""
        self.outage.fault(**rule)
        try:
            said = call()
        except Exception as error:
            good = type(error) is expected and bool(holds(error))
            return self._say(good, name, f"{type(error).__module__}.{type(error).__name__}: {str(error)!r}")
        self._say(False, name, f"no exception, but {said!r}")

    def end(self):
        print(f"{self.client}: {self.passed} passed, {self.failed} failed")
        return self.failed


def run(cases_of):
    """Runs each client's cases against a server of its own; exit code 1 if one is wrong.

    With `--proxy` as the last argument the server is a proxy before another one, which answers well.
    """
    failed = total = 0
    upstream = Outage(sys.argv[1]) if sys.argv[-1] == "--proxy" else None
    for client, cases in cases_of.items():
        outage = Outage(sys.argv[1], upstream and upstream.url)
        counted = Cases(outage, client)
        try:
            cases(outage, counted)
        finally:
            code = outage.stop()
        if code != 0:
            print(f"FAIL {client}: the server ended with {code}")
            failed += 1
        failed += counted.end()
        total += counted.passed + counted.failed
    if upstream:
        upstream.stop()
    if not total:
        sys.exit("no case was run")
    print(f"{total} cases of {len(cases_of)} clients{', through a proxy' if upstream else ''}, {failed} failed")
    sys.exit(1 if failed else 0)
