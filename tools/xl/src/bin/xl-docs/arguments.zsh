# What clap does not know: the domains that are there now.
_xl_domains() {
    local -a names
    names=(${(f)"$(xl list 2>/dev/null |
        sed -nE '2,$s/ +[0-9]+ +[0-9]+ +[0-9]+ +[-a-zS]{6} +[0-9.]+$//p')"})
    compadd -a names
}

