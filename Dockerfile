# CPU:   docker build -t tgo .
# CUDA:  docker build -t tgo:cuda --build-arg BASE=nvidia/cuda:13.0.0-runtime-ubuntu24.04 .
#        docker run --gpus all ...
# Smoke: docker run --rm tgo sh -c 'tgo init /tmp/p --world && cd /tmp/p && tgo preset ci && dvc repro'
# PyTorch's wheel of requirements.lock carries its CUDA libraries; the CUDA base adds what drivers expect.
ARG BASE=ubuntu:24.04
FROM ${BASE}

RUN apt-get update \
 && apt-get install -y --no-install-recommends git make python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tgo
COPY requirements.lock pyproject.toml setup.py README.md LICENSE Makefile params.yaml dvc.yaml .dvcignore .gitignore ./
COPY .dvc .dvc
COPY pipeline pipeline
COPY trainer trainer
COPY rewards rewards
COPY data data
COPY presets presets
RUN make setup PYTHON=python3.12
ENV PATH=/opt/tgo/.venv/bin:$PATH
WORKDIR /work
CMD ["tgo", "--help"]
