# Three images from one file: `api` (no torch), `worker` (CUDA wheels of torch; also runs on the CPU), `migrate`.
FROM python:3.12-slim AS base
# Packages are compiled once, here: the user who runs them may not write beside them. Children look for ours in /app.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 UV_COMPILE_BYTECODE=1 PYTHONPATH=/app
# A fresh named volume takes the owner of the folder it is mounted on: each must exist and belong to the user.
RUN pip install --disable-pip-version-check uv && useradd --create-home --uid 1000 stillroom \
    && mkdir -p /data /home/stillroom/.cache/huggingface && chown -R stillroom /data /home/stillroom/.cache
WORKDIR /app

FROM base AS api
COPY requirements/api.txt requirements/api.txt
RUN uv pip sync --system requirements/api.txt
COPY alembic.ini ./
COPY migrations migrations
COPY state state
COPY distillation distillation
COPY starter starter
COPY workers workers
COPY api api
USER stillroom
# Where the command below listens, so that the API can warn of an open door; Compose says where it publishes the port.
ENV STILLROOM_HOST=0.0.0.0
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8321/livez', timeout=2)"]
CMD ["uvicorn", "api.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8321", "--timeout-graceful-shutdown", "5"]

FROM api AS migrate
HEALTHCHECK NONE
CMD ["alembic", "upgrade", "head"]

FROM base AS worker
# torch.compile builds its kernels with it; without one, images and training steps run uncompiled.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/worker.txt requirements/worker.txt
RUN uv pip sync --system requirements/worker.txt
COPY state state
COPY models models
COPY distillation distillation
COPY starter starter
COPY workers workers
USER stillroom
CMD ["python", "-m", "celery", "--app", "workers.celery_app", "worker", "--pool", "threads", "--concurrency", "1", "--queues", "generate,distil,evaluate,export", "--loglevel", "info"]
