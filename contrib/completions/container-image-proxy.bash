# bash completion for container-image-proxy(1); for /usr/share/bash-completion/completions/container-image-proxy
# shellcheck shell=bash

_container_image_proxy_instances() {
    local file
    for file in /{etc,run,usr/lib}/container-image-proxy/*.toml; do
        [ -e "$file" ] && basename "$file" .toml
    done
}

_container_image_proxy() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local options='--instance --check --port --socket --socket-mode --sockfd --allow-user --allow-group --allow-any-user --idle-exit
        --config-dir --log-level --help --version --authfile --creds --no-creds --cert-dir --token-realms --tls-verify
        --policy --insecure-policy --registries-conf --registries-conf-dir --registries.d --override-os --override-arch
        --override-variant --cache-dir --spool-limit --daemon-host --daemon-cert-dir --reload --verification-timeout'
    local sources='docker:// oci: dir: oci-archive: docker-archive: docker-daemon: containers-storage: tarball: experimental-image-proxy'
    case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
    *' experimental-image-proxy '*)
        options='--sockfd --help --authfile --creds --username --password --registry-token --no-creds --cert-dir --tls-verify
            --shared-blob-dir --policy --insecure-policy --registries-conf --registries-conf-dir --registries.d --override-os
            --override-arch --override-variant --user-agent-prefix --tmpdir --daemon-host --debug'
        sources=''
        ;;
    esac
    # Readline takes "=" and ":" for words of their own (COMP_WORDBREAKS).
    case $previous in [=:]) previous=${COMP_WORDS[COMP_CWORD - 2]}${previous#=} ;; esac
    case $word in
    =) word='' ;;
    :) word='' previous+=: ;;
    esac
    case $previous in
    --instance) mapfile -t COMPREPLY < <(compgen -W "$(_container_image_proxy_instances)" -- "$word") ;;
    --allow-user) mapfile -t COMPREPLY < <(compgen -u -- "$word") ;;
    --allow-group) mapfile -t COMPREPLY < <(compgen -g -- "$word") ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W 'debug info warning error' -- "$word") ;;
    --tls-verify) mapfile -t COMPREPLY < <(compgen -W 'true false' -- "$word") ;;
    --socket | --authfile | --policy | --registries-conf | oci-archive: | docker-archive: | tarball:)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    --config-dir | --cache-dir | --tmpdir | --shared-blob-dir | --daemon-cert-dir | --cert-dir | --registries-conf-dir | --registries.d | oci: | dir:)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    --port | --sockfd | --socket-mode | --idle-exit | --verification-timeout | --spool-limit | --daemon-host | --creds | --username | --password | \
        --registry-token | --user-agent-prefix | --token-realms | --override-* | *:)
        COMPREPLY=()
        ;;
    *)
        case $word in
        -*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$sources" -- "$word")
            case ${COMPREPLY[*]} in *:*) compopt -o nospace ;; esac
            ;;
        esac
        ;;
    esac
}

complete -F _container_image_proxy container-image-proxy
