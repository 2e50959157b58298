# One file, two images: docker build --target agent|collector .
#
# The collector runs as nobody in particular; it needs its data volume only.
# The agent runs as root, because the kubelet's socket and other users'
# processes are root's to read; the DaemonSet drops every capability.
#
# The base images are arguments, so that a build can name them by digest:
#
#   --build-arg BUILD_IMAGE=golang:1.26.7-bookworm@sha256:…
#
# With them, and SOURCE_DATE_EPOCH set to the commit's time
# (git log -1 --format=%ct), the same commit makes the same layers.
ARG BUILD_IMAGE=golang:1.26.7-bookworm
ARG COLLECTOR_BASE=gcr.io/distroless/cc-debian12:nonroot
ARG AGENT_BASE=gcr.io/distroless/base-debian12

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
ENV GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG SOURCE_DATE_EPOCH=0
RUN make dist/gpuledger dist/gpuledger-collector dist/gpuledger-agent VERSION=$VERSION && mkdir -p /empty && \
    touch -d @$SOURCE_DATE_EPOCH dist/* /empty

# glibc and libstdc++ for DuckDB.
FROM ${COLLECTOR_BASE} AS collector
COPY --from=build /src/dist/gpuledger-collector /src/dist/gpuledger /usr/local/bin/
COPY --from=build --chown=65532:65532 /empty /var/lib/gpuledger-collector
VOLUME /var/lib/gpuledger-collector
EXPOSE 9440 9441
USER 65532:65532
# It listens on loopback until a configuration gives it TLS, or says that the
# network keeps others out (docs/configuration.md: tls, insecure_listen).
ENTRYPOINT ["/usr/local/bin/gpuledger-collector"]
CMD ["--data-dir", "/var/lib/gpuledger-collector"]

# glibc alone: the driver's own NVML library is mounted into the container.
FROM ${AGENT_BASE} AS agent
COPY --from=build /src/dist/gpuledger-agent /usr/local/bin/
VOLUME /var/lib/gpuledger-agent
ENTRYPOINT ["/usr/local/bin/gpuledger-agent"]
CMD ["--state-dir", "/var/lib/gpuledger-agent"]
