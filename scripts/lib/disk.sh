# Room on the disk, asked for before it is needed.
# shellcheck shell=bash

# require_space FOLDER MEGABYTES WHAT: stops when the file system of FOLDER has less room.
require_space() {
    local folder=$1 needed=$2 what=$3 free
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }')
    ((free >= needed)) || die "the disk is too full: $what needs $needed MB under $folder," \
        "which has $free MB left"
}
