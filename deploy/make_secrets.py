"""Makes the files in ``docker/secrets`` that ``docker-compose.yml`` reads; keeps those there are.

``python deploy/make_secrets.py`` needs nothing but Python. The files are readable by everybody on
this machine who may enter the folder, which is its owner: containers read them under other ids.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docker" / "secrets"


def main(folder: Path = FOLDER) -> list[str]:
    """Make what is missing; returns the names of the files made."""
    folder.mkdir(mode=0o700, exist_ok=True)
    made = []
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    identity = {
        "name": "sam2",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    contents = {
        "aws_credentials": (
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        ),
        "s3_config": json.dumps({"identities": [identity]}, indent=2) + "\n",
        # Label Studio takes it for its user's token at the first start.
        "label_studio_api_key": secrets.token_hex(20) + "\n",
    }
    random = ("auth_token", "basic_auth_pass", "detector_pass")
    for name in (*random, "grafana_password", "label_studio_password"):
        contents[name] = secrets.token_urlsafe(24) + "\n"
    pair = [folder / "aws_credentials", folder / "s3_config"]
    if any(path.exists() for path in pair) and not all(path.exists() for path in pair):
        raise SystemExit("docker/secrets holds one of aws_credentials and s3_config: remove it")
    for name, content in sorted(contents.items()):
        path = folder / name
        if not path.exists():
            path.write_text(content, encoding="utf-8")
            path.chmod(0o644)
            made.append(name)
    return made


if __name__ == "__main__":
    print("made:", ", ".join(main()) or "nothing, all are there", file=sys.stderr)
