# bash completion for cip(1); for /usr/share/bash-completion/completions/cip
# shellcheck shell=bash

_cip_instances() {
    local socket
    for socket in /run/container-image-proxy/*.sock; do
        [ -S "$socket" ] && basename "$socket" .sock
    done
}

_cip() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local commands='images manifest config verify blob pull unpack ls cat plan watch'
    local options='--instance --socket --url --image --platform --timeout --json --quiet --help' one command=''
    for one in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case " $commands " in *" $one "*) command=$one && break ;; esac
    done
    # Readline takes ":" for a word of its own (COMP_WORDBREAKS).
    case $previous in :) previous=${COMP_WORDS[COMP_CWORD - 2]}: ;; esac
    case $word in :) word='' previous+=: ;; esac
    case $previous in
    --instance)
        mapfile -t COMPREPLY < <(compgen -W "$(_cip_instances)" -- "$word")
        return
        ;;
    --socket | --output | -o)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    oci: | dir:)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --have)
        compopt -o filenames -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'oci:' -- "$word" && compgen -f -- "$word")
        return
        ;;
    --url | --image | --platform | --timeout | --signed-by | --interval | --since | *:)
        COMPREPLY=()
        return
        ;;
    esac
    case $command in
    '') options+=" --version" ;;
    verify) options+=" --signed-by" ;;
    blob) options+=" --output --no-sync" ;;
    pull) options+=" --verify --no-sync" ;;
    unpack) options+=" --replace --no-sync" ;;
    ls) options+=" --long --recursive" ;;
    plan) options+=" --have" ;;
    watch) options+=" --interval --since --once" ;;
    esac
    case $command:$word in
    *:-*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
    :*) mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word") ;;
    pull:*)
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'oci: dir:' -- "$word")
        ;;
    unpack:*)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    *) COMPREPLY=() ;;
    esac
}

complete -F _cip cip
