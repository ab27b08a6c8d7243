# The commands on a CPU; see README.md. The working directory of a container, /work, is the one to mount.
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE requirements-lock.txt ./
COPY nhn_tf nhn_tf
COPY flags flags
RUN pip install --no-cache-dir --constraint requirements-lock.txt ".[tensorflow,sparse]"
WORKDIR /work
CMD ["nhn-pipeline", "--preset=demo", "--model_dir=runs/demo"]
