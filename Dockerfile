# An image with noiseworks and torch for CUDA. The driver is that of the host, and CUDA's libraries come with torch.
#   docker build --tag noiseworks .
#   docker run --rm --gpus all --ipc=host --user $(id -u):$(id -g) --volume /data:/data:ro --volume $PWD:/work noiseworks doctor
FROM python:3.12-slim
# torch.compile and the extra pesq need a compiler
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# for a driver older than this CUDA, add --index-url https://download.pytorch.org/whl/cu126
RUN pip install --no-cache-dir torch torchvision
COPY . /opt/noiseworks
RUN pip install --no-cache-dir "/opt/noiseworks[lora,pipelines,hub-data,audio,video]"
# the user of `docker run --user` has neither a name nor a home in the image; caches are in /work/.cache
ENV USER=noiseworks HOME=/work NOISEWORKS_DATA=/data
WORKDIR /work
ENTRYPOINT ["noiseworks"]
