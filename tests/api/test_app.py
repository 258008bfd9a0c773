"""The application as a whole: no torch, little memory, health, metrics, a good OpenAPI document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from state.blobs import BlobStore
from state.claims import claim_task
from state.database import make_engine, session_scope
from state.migrate import upgrade
from state.settings import Settings, environment
from state.tables import Table, Task
from tests.api.conftest import Service
from tests.api.seeds import finish_job, picture, recipe

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import sys, threading, time, json

BLOCKED = {"torch", "torchvision", "open_clip", "timm", "diffusers", "transformers"}
LAZY = {"onnxruntime", "pyarrow", "s3fs", "pandas"}

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed in the API")

sys.meta_path.insert(0, Wall())
import httpx, uvicorn
from pathlib import Path
from api.app import create_app
from state.migrate import upgrade
from state.settings import Settings

app = create_app(Settings(home=Path(sys.argv[1])))
upgrade(app.state.engine)
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
while not server.started:
    assert thread.is_alive()
    time.sleep(0.01)
port = server.servers[0].sockets[0].getsockname()[1]
with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
    assert http.get("/livez").json() == {"status": "ok"}
    plan = http.post("/v1/jobs?dry_run=true", content=sys.argv[2], headers={"Content-Type": "application/json"})
    assert plan.status_code == 200, plan.text
    assert http.get("/v1/catalogue/students").status_code == 200
loaded = {name.partition(".")[0] for name in sys.modules}
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps({"heavy": sorted(loaded & (BLOCKED | LAZY)), "peak_mb": int(peak) // 1024}))
server.should_exit = True
thread.join(10)
"""


def test_without_torch_and_within_its_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path), json.dumps({"recipe": recipe()})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    assert found["peak_mb"] < 200, found


def test_what_only_some_requests_need_is_not_imported_at_the_start() -> None:
    code = (
        "import sys, api.app; print(sorted({'alembic', 'numpy', 'PIL', 'onnxruntime', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"


def test_memory_of_the_process_under_work(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    engine, blobs = make_engine(settings.database_url), BlobStore(settings.blobs_url)
    upgrade(engine)
    command = [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", "--port", "0"]
    environ = environment(home=str(settings.home))
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            url = next(line.split()[-5] for line in server.stderr if "running on" in line)
            with httpx.Client(base_url=url, timeout=60) as http:
                job = http.post("/v1/jobs", json={"recipe": recipe()}).json()
                finish_job(engine, blobs, job["id"], tmp_path)
                encoder = http.get(f"/v1/jobs/{job['id']}").json()["encoder_id"]
                photo = picture((9, 9, 200), (4000, 3000))
                assert http.post(f"/v1/encoders/{encoder}/classify", content=photo).status_code == 200
                many = {"name": "many", "classes": [f"class {number}" for number in range(5000)]}
                large = http.post("/v1/jobs?dry_run=1", json={"recipe": recipe(domain=many)})
                assert large.status_code == 200, large.text
                upload = {"file": ("photos.zip", bytes(50 << 20))}
                assert http.post("/v1/datasets", files=upload).status_code == 422
            status = Path(f"/proc/{server.pid}/status").read_text()
            helpers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        finally:
            server.kill()
    engine.dispose()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    assert int(peak) < 200 * 1024
    for helper in helpers:  # the classifying process ends with the API, even when that is killed
        for _ in range(500):
            if not _alive(helper):
                break
            time.sleep(0.02)
        assert not _alive(helper)


def _alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_livez_needs_no_database(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.engine, "connect", None)
    assert service.http.get("/livez").json() == {"status": "ok"}
    monkeypatch.undo()


def test_readyz(any_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    http = any_service.http
    ready = http.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert ready.json()["status"] == "ready"
    assert {name: check["ok"] for name, check in ready.json()["checks"].items()} == {
        "database": True,
        "migrations": True,
        "broker": True,
    }
    monkeypatch.setattr("api.health.head_revision", lambda: "9999")
    behind = http.get("/readyz")
    assert behind.status_code == 503 and not behind.json()["checks"]["migrations"]["ok"]
    assert "run the migrations" in behind.json()["checks"]["migrations"]["detail"]


def test_readyz_tells_of_a_broker(start: Any, redis_url: str) -> None:
    assert start(broker_url=redis_url).http.get("/readyz").status_code == 200
    away = start(broker_url="redis://127.0.0.1:1/0")
    answer = away.http.get("/readyz")
    assert answer.status_code == 503
    assert [name for name, check in answer.json()["checks"].items() if not check["ok"]] == ["broker"]
    # Jobs are taken all the same: they wait in the outbox.
    assert away.http.post("/v1/jobs", json={"recipe": recipe()}).status_code == 202


def test_readyz_before_the_migrations(start: Any) -> None:
    service = start()
    Table.metadata.drop_all(service.engine)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    answer = service.http.get("/readyz")
    assert answer.status_code == 503 and answer.json()["checks"]["database"]["ok"]


def test_submitted_jobs_reach_the_broker(start: Any, redis_url: str) -> None:
    import redis

    service = start(broker_url=redis_url)
    client = redis.Redis.from_url(redis_url.replace("redis+socket", "unix"))
    client.delete("generate")
    service.submit()
    for _ in range(100):
        if client.llen("generate"):
            break
        service.http.get("/livez")
    assert client.llen("generate") == 1
    client.delete("generate")


def test_metrics(any_service: Service) -> None:
    job = any_service.submit()
    with session_scope(any_service.engine) as session:
        task = session.query(Task).filter_by(job_id=job["id"], status="ready").one()
        assert claim_task(session, task.id, "test", 60) is not None
    answer = any_service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'stillroom_jobs{status="preparing"} 1.0' in answer.text
    assert 'stillroom_tasks{stage="generate",status="waiting"} 3.0' in answer.text
    assert 'stillroom_queue_depth{queue="generate"} 0.0' in answer.text
    assert "stillroom_lease_age_seconds_max" in answer.text


def test_catalogue(service: Service) -> None:
    found = {}
    for kind in ("teachers", "students", "generators", "losses"):
        page = service.http.get(f"/v1/catalogue/{kind}").json()
        assert page["next"] is None and page["data"]
        found[kind] = page["data"]
    assert found["teachers"][0]["model"] == "starter" == found["generators"][0]["model"]
    presets = {(row["tier"], row["preset"]) for row in found["students"] if row["preset"]}
    assert presets == {(tier, size) for tier in ("small", "full") for size in ("xs", "s", "m", "l")}
    clip_kd = {"crd", "mfd", "gd", "icl", "afd"}
    assert {row["name"] for row in found["losses"]} == {"l2", "mse", "cosine", "i2i", "contrastive"} | clip_kd


def test_openapi(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    operations = {(m, p): o for p, methods in document["paths"].items() for m, o in methods.items()}
    v1 = {key: operation for key, operation in operations.items() if key[1].startswith("/v1")}
    assert len(v1) >= 24
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    for key, operation in operations.items():
        assert operation.get("summary") and operation.get("tags"), key
    for key, operation in v1.items():
        assert operation["security"], key
        assert "ProblemDetails" in json.dumps(operation["responses"]["default"]), key
    for key, operation in operations.items():
        assert "HTTPValidationError" not in json.dumps(operation), key
    assert document["components"]["schemas"]["JobCreate"]["examples"]


def test_the_docs_work_offline(service: Service) -> None:
    """Everything the page refers to comes from this server."""
    page = service.http.get("/docs")
    assert page.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text, flags=re.DOTALL)
    referred = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    paths = [src or url for src, url in referred]
    assert len(paths) == 4  # script, style, icon, schema
    for path in paths:
        assert service.http.get(path).status_code == 200, path
    assert service.http.get("/redoc").status_code == 404
