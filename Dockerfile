# medvision with everything it needs at run time: no network is used once the image is built.
#
#   docker build --tag medvision:0.1.0 .
#   docker run --rm --gpus all --read-only --tmpfs /tmp --network none \
#     --volume /data/slides:/slides:ro --volume /data/results:/results \
#     medvision:0.1.0 batch /slides --out /results
#
# torch brings its own CUDA libraries; the host needs NVIDIA's driver and container toolkit. Without --gpus it runs on the
# CPU. /results must be writable for user 10001.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY medvision ./medvision
COPY flows ./flows
RUN python -m venv /opt/medvision \
 && /opt/medvision/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp medvision \
 && mkdir /slides /results /state \
 && chown 10001:10001 /results /state
COPY --from=build /opt/medvision /opt/medvision
ENV PATH=/opt/medvision/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    DO_NOT_TRACK=1 \
    HF_HUB_OFFLINE=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    MEDVISION_HOME=/state
WORKDIR /results
USER 10001:10001
ENTRYPOINT ["medvision"]
CMD ["--help"]
