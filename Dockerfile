# The service without training: predictions run on ONNX, so that neither torch nor transformers is installed.
#   docker build -t moltune .
#   docker run -p 127.0.0.1:8000:8000 -e MOLTUNE_TOKEN=... -v moltune:/data moltune
# A run of your own is exported first (moltune export runs/mine -o mine.zip), then mounted and named with --model.
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY scripts/serving_requirements.py scripts/
RUN python scripts/serving_requirements.py > requirements.txt \
    && python -m venv /opt/moltune \
    && /opt/moltune/bin/pip install --no-cache-dir -r requirements.txt \
    && /opt/moltune/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
# RDKit's drawings link to these.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 libxext6 libxrender1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/moltune /opt/moltune
RUN useradd --create-home --uid 10001 moltune && mkdir /data && chown moltune /data
USER moltune
VOLUME /data
ENV PATH=/opt/moltune/bin:$PATH
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["moltune", "serve", "--host", "0.0.0.0", "--folder", "/data"]
