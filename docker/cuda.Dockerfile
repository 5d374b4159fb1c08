FROM nvidia/cuda:12.6.3-base-ubuntu24.04 AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rawkit rawkit
COPY calibration_data calibration_data
COPY models models
RUN python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir -c constraints.txt hatchling \
    && /build/bin/python -m hatchling build -t wheel -d /wheel
ARG EXTRAS=cluster,hdf5,torch
RUN python3 -m venv /opt/rawkit \
    && set -- /wheel/*.whl \
    && /opt/rawkit/bin/pip install --no-cache-dir -c constraints.txt "$1[${EXTRAS}]"

FROM python
RUN useradd --create-home --uid 10001 rawkit && mkdir /data && chown rawkit:rawkit /data
COPY --from=build /opt/rawkit /opt/rawkit
ENV PATH=/opt/rawkit/bin:$PATH
USER 10001
WORKDIR /data
ENTRYPOINT ["rawkit"]
CMD ["--help"]
