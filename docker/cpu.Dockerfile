FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rawkit rawkit
COPY calibration_data calibration_data
COPY models models
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir -c constraints.txt hatchling \
    && /build/bin/python -m hatchling build -t wheel -d /wheel
ARG EXTRAS=cluster,hdf5
RUN python -m venv /opt/rawkit \
    && set -- /wheel/*.whl \
    && /opt/rawkit/bin/pip install --no-cache-dir -c constraints.txt "$1[${EXTRAS}]"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 10001 rawkit && mkdir /data && chown rawkit:rawkit /data
COPY --from=build /opt/rawkit /opt/rawkit
ENV PATH=/opt/rawkit/bin:$PATH
USER 10001
WORKDIR /data
ENTRYPOINT ["rawkit"]
CMD ["--help"]
