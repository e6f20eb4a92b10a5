# One image for every process of a swarm. PIP_OPTIONS chooses torch's wheel; docker-compose.yml passes it on:
#   (unset)                                                                  CPU only
#   PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cu130"   CUDA 13.0 (compose.gpu.yaml's default)
#   PIP_OPTIONS=""                                                           PyPI's own: on Linux x86-64 a CUDA build
# An index that does not answer is passed over, and the wheel is PyPI's.
# Without compose: docker build --build-arg PIP_OPTIONS="..." -t swarm:local .
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG PIP_OPTIONS="--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The dependencies first: they change less often than the code.
RUN mkdir -p swarm node coordinator && touch swarm/__init__.py node/__init__.py coordinator/__init__.py \
 && python -m venv --system-site-packages /opt/swarm \
 && /opt/swarm/bin/pip install ${PIP_OPTIONS} -c constraints.txt torch \
 && /opt/swarm/bin/pip install -c constraints.txt . \
 && /opt/swarm/bin/pip uninstall -y swarm \
 && rm -rf build *.egg-info swarm node coordinator
COPY swarm swarm
COPY node node
COPY coordinator coordinator
RUN /opt/swarm/bin/pip install --no-deps .

FROM ${PYTHON}
RUN useradd --uid 10001 --create-home --home-dir /home/swarm swarm \
 && mkdir /data && chown swarm:swarm /data && chmod 0700 /data
COPY --from=build /opt/swarm /opt/swarm
COPY deploy /opt/deploy
COPY examples/containers /opt/examples
ENV PATH=/opt/swarm/bin:$PATH SWARM_HOME=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    XDG_RUNTIME_DIR=/tmp TORCHINDUCTOR_CACHE_DIR=/tmp/torch
USER swarm
WORKDIR /home/swarm
ENTRYPOINT ["swarm"]
CMD ["--help"]
