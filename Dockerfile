# One file, two images: docker build --target agent|collector .
#
# The collector runs as nobody in particular; it needs its data volume only.
# The agent runs as root, because the kubelet's socket and other users'
# processes are root's to read; the DaemonSet drops every capability it can.

FROM golang:1.26-bookworm AS build
WORKDIR /src
ENV GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION=$VERSION && mkdir -p /empty

# glibc and libstdc++ for DuckDB.
FROM gcr.io/distroless/cc-debian12:nonroot AS collector
COPY --from=build /src/bin/gpuledger-collector /src/bin/gpuledger /usr/local/bin/
COPY --from=build --chown=65532:65532 /empty /var/lib/gpuledger-collector
VOLUME /var/lib/gpuledger-collector
EXPOSE 9440 9441
USER 65532:65532
# It listens on loopback until a configuration gives it TLS, or says that the
# network keeps others out (docs/configuration.md: tls, insecure_listen).
ENTRYPOINT ["/usr/local/bin/gpuledger-collector"]
CMD ["--data-dir", "/var/lib/gpuledger-collector"]

# glibc alone: the driver's own NVML library is mounted into the container.
FROM gcr.io/distroless/base-debian12 AS agent
COPY --from=build /src/bin/gpuledger-agent /usr/local/bin/
VOLUME /var/lib/gpuledger-agent
ENTRYPOINT ["/usr/local/bin/gpuledger-agent"]
CMD ["--state-dir", "/var/lib/gpuledger-agent"]
