
# What clap does not know: the domains that are there now, files, and verbs behind help.
_xl_domains() {
    xl list 2>/dev/null | sed -nE '2,$s/ +[0-9]+ +[0-9]+ +[0-9]+ +[-a-zS]{6} +[0-9.]+$//p'
}

_xl_arguments() {
    _xl "$@"
    local word verb= position=0 current=${COMP_WORDS[COMP_CWORD]}
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == -* ]] && continue
        if [[ -z $verb ]]; then verb=$word; else position=$((position + 1)); fi
    done
    [[ -z $verb || $current == -* ]] && return
    local IFS=$'\n' replies=()
    case $verb in
        help)
            replies=($(compgen -W "$(printf '%s\n' $(IFS=' '; echo @VERBS@) | tr ' ' '\n')" -- "$current")) ;;
        @DOMAIN@)
            [[ $position -eq 0 ]] && replies=($(compgen -W "$(_xl_domains)" -- "$current")) ;;
        @DOMAINS@)
            replies=($(compgen -W "$(_xl_domains)" -- "$current")) ;;
    esac
    case $verb in
        @FILES@)
            [[ $verb == create || $position -gt 0 ]] && replies+=($(compgen -f -- "$current")) ;;
    esac
    # clap's own suggestions for an argument are the placeholders of its usage
    COMPREPLY=("${replies[@]}")
}
complete -F _xl_arguments -o filenames -o nosort xl
