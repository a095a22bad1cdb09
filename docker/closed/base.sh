#!/bin/sh
# Makes a base image with Python where no registry of images can be reached.
#
#     docker/closed/base.sh NAME
#
# Installs Debian's packages of this machine's release, by its own apt sources, into a folder that
# `docker import` takes as an image. Needs Debian, root, mmdebstrap and a running engine.
set -eu

name=${1:?the name of the image is missing: docker/closed/base.sh NAME}
. /etc/os-release

mmdebstrap --quiet --variant=minbase \
    --include=ca-certificates,python3,python3-venv,tzdata \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    "$VERSION_CODENAME" - | docker import - "$name"
