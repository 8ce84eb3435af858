
# What clap does not know: the domains that are there now, files, and verbs behind help.
function __xl_domains
    xl list 2>/dev/null | sed -nE '2,$s/ +[0-9]+ +[0-9]+ +[0-9]+ +[-a-zS]{6} +[0-9.]+$//p'
end

# Says whether no word but options stands behind the verb.
function __xl_is_first
    set -l words (commandline -opc)
    test (count (string match --invert -- '-*' $words)) -eq 2
end

complete -c xl -n "not __fish_xl_needs_command" -f
complete -c xl -n "__fish_xl_using_subcommand help; and __xl_is_first" -a "@VERBS@"
complete -c xl -n "__fish_xl_using_subcommand @DOMAIN@; and __xl_is_first" -a "(__xl_domains)"
complete -c xl -n "__fish_xl_using_subcommand @DOMAINS@" -a "(__xl_domains)"
complete -c xl -n "__fish_xl_using_subcommand create" -F
complete -c xl -n "__fish_xl_using_subcommand @FILES@; and not __xl_is_first" -F
