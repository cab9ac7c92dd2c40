# Assay's production image. It has no embedded servers and runs as a separate user. Every package is
# installed by its hash in requirements.lock, which has the requirements of the extra `server`.
#
# The build needs BuildKit. It is the default since Docker 23, and DOCKER_BUILDKIT=1 chooses it in
# older versions. Some distributions have it in a package of its own, docker-buildx.
#
# To use another base image (any Python >= 3.11 with pip):
#     --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…
# To use another package index: --secret id=pip,src=pip.conf
# If the index has a private CA: --secret id=ca,src=ca.crt, with `cert = /run/secrets/ca` in
# pip.conf. Neither file ends up in a layer.
ARG PYTHON_IMAGE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python3 -m venv --without-pip /opt/assay
COPY requirements.lock ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m pip --python /opt/assay/bin/python install --require-hashes -r requirements.lock \
    --no-cache-dir --only-binary :all:

# The packages that build the wheel. Only this stage needs them, so they are not in the lock file of
# the service.
RUN printf '%s\n' \
    'hatchling==1.33.0 --hash=sha256:415290b84f464d2884303fca8974d38e7b85579069fab02a15db0828fbb1446d' \
    'packaging==26.3 --hash=sha256:d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c' \
    'pathspec==1.1.1 --hash=sha256:a00ce642f577bf7f473932318056212bc4f8bfdf53128c78bbd5af0b9b20b189' \
    'pluggy==1.7.0 --hash=sha256:7dd7b0d8832ba3cb632c306926ded123429211b83641b35dc5c41ad2d34f9bec' \
    'tomlkit==0.15.2 --hash=sha256:05562412163a3037b94497385fb7f9204c637bc605af7a48199e41cf2272f437' \
    'trove-classifiers==2026.9.21.13 --hash=sha256:8b1ff4f9c191b1040b71c37f1e445ab99732911e3cd91de52838453a854d7a17' \
    > build.lock
RUN python3 -m venv --without-pip /opt/build
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m pip --python /opt/build/bin/python install --require-hashes -r build.lock \
    --no-cache-dir --only-binary :all:
COPY . .
RUN /opt/build/bin/hatchling build -t wheel -d dist \
    && python3 -m pip --python /opt/assay/bin/python install --no-index --no-deps --no-cache-dir \
    dist/*.whl

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --home-dir /nonexistent --no-create-home \
    --shell /usr/sbin/nologin assay
COPY --from=build /opt/assay /opt/assay
# `docker run --rm assay env` needs this file to write the secrets of a deployment.
COPY .env.example /app/.env.example
WORKDIR /app
ENV PATH=/opt/assay/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
# /health/ready fails only for conditions of this process. If the database or the store is
# unavailable, a restart would not help.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "from urllib import request; request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["assay"]
CMD ["serve"]
