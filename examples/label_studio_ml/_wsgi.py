"""The entry that ``label-studio-ml start`` runs and ``gunicorn _wsgi:app`` serves."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from label_studio_ml.api import init_app
from model import NewModel

app = init_app(
    model_class=NewModel,
    basic_auth_user=os.environ.get("BASIC_AUTH_USER"),
    basic_auth_pass=os.environ.get("BASIC_AUTH_PASS"),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104
    arguments, _ = parser.parse_known_args()
    app.run(host=arguments.host, port=arguments.port, threaded=True)
