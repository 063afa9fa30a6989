# One image for worker, dashboard and command line.
#   docker build -t hpo .
#   docker build -t hpo:cpu --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .
# Layers that change rarely come first: a change of the code reinstalls no dependency,
# and a new dependency in pyproject.toml does not reinstall torch.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/hpo/bin:$PATH

# A fixed user id, so that volumes keep their owner from one image to the next.
RUN useradd --uid 10001 --user-group --create-home hpo \
 && install -d -o hpo -g hpo /artifacts \
 && python3 -m venv /opt/hpo

# PIP_INDEX_URL: a mirror of PyPI. No credentials in it: build arguments stay visible in the image's history.
# TORCH_INDEX_URL: index of torch and torchvision; both, because a pair from two indexes does not load.
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL

WORKDIR /src
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      pip install --no-deps --index-url "$TORCH_INDEX_URL" -c constraints.txt torch torchvision; \
    fi \
 && pip install -c constraints.txt torch torchvision

COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['s3'], sep='\n')" \
      > requirements.txt \
 && pip install -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY search_spaces search_spaces
COPY storage storage
COPY hpo hpo
RUN pip install --no-deps --no-build-isolation . \
 && rm -rf build hpo.egg-info

USER 10001:10001
WORKDIR /home/hpo
ENV HOME=/home/hpo \
    HPO_HOME=/home/hpo/.hpo \
    HPO_ARTIFACTS=/artifacts
ENTRYPOINT ["hpo"]
CMD ["--help"]
