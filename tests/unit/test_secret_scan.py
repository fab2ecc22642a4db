"""`.ci/secrets`, a part of `make lint`: finds secrets of known formats, without printing them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT

LONG = "aB3xQ9" * 8
# Put together here, so that this file has none itself.
SECRETS = {
    "private key": "-----BEGIN RSA PRIVATE" + " KEY-----",
    "private key without a kind": "-----BEGIN PRIVATE" + " KEY-----",
    "AWS": "key = AKIA" + "ABCDEFGHIJ234567",
    "GitHub": "ghp_" + LONG[:36],
    "GitLab": "glpat-" + LONG[:20],
    "Slack": "xoxb-" + "123456789012-" + LONG[:12],
    "Stripe": "sk_live_" + LONG[:24],
    "Google": "AIza" + LONG[:35],
    "npm": "npm_" + LONG[:36],
    "JWT": ".".join(("eyJ" + LONG[:17], "eyJ" + LONG[:17], LONG[:43])),
    "API key of Tally": f"Authorization: Api-Key {LONG[:8]}.{LONG[:32]}",
    "assignment": f'SECRET_KEY = "{LONG}"',
    "JSON": f'{{"password": "{LONG[:32]}"}}',
}
HARMLESS = (
    *("password = os.environ['PASSWORD']", 'TALLY_DATABASE_PASSWORD="replace-this"', f"sha256:{'0a' * 32}"),
    f'SECRET_KEY = "{LONG}"  # not-a-secret: of a benchmark',
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def scan(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [ROOT / ".ci/secrets", directory]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_and_not_printed(repository: Path, kind: str) -> None:
    (repository / "new.txt").write_text(f"first\n{SECRETS[kind]}\n")
    done = scan(repository)
    assert done.returncode == 1
    assert "new.txt:2\n" in done.stderr
    assert SECRETS[kind] not in done.stdout + done.stderr


def test_what_is_no_secret_passes(repository: Path) -> None:
    (repository / "new.txt").write_text("\n".join(HARMLESS))
    (repository / ".gitignore").write_text("ignored\n")
    (repository / "ignored").write_text(SECRETS["GitHub"])
    done = scan(repository)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_git_it_fails(tmp_path: Path) -> None:
    assert scan(tmp_path).returncode > 1


def test_lint_scans_and_audits_are_in_the_workflow() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = makefile.partition("\nlint:")[2].partition("\n\n")[0]
    assert ".ci/secrets" in lint
    assert "make audit" in (ROOT / ".github/workflows/ci.yml").read_text()
    assert "\naudit:" in makefile
