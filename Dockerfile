# The quickstart in a container: docker build -t repvit-mm . && docker run --rm -v "$PWD/work_dirs:/repvit-mm/work_dirs" repvit-mm
FROM python:3.12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /repvit-mm
COPY . .
RUN make setup VENV=/opt/repvit-mm
ENV VENV=/opt/repvit-mm PATH=/opt/repvit-mm/bin:$PATH
CMD ["make", "quickstart"]
