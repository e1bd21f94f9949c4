# Completes command lines of kubectl: `kubectl __complete` says what may come, and what it means.
# For another name of it: complete -c NAME -w kubectl
function __kubectl_asks
    set -g __kubectl_choices
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l program $words[1]
    # An alias is no program.
    command -q -- "$program"; or set program kubectl
    set -l told (command $program __complete $words[2..-1] "$word" 2>/dev/null)
    # The last line is a colon and the sum of what else there is to say.
    set -l sum (string replace -r '^:' '' -- "$told[-1]")
    string match -qr '^\d+$' -- "$sum"; or return 1
    set -e told[-1]
    # What went wrong, and files with some endings or none, are left to fish, which offers files.
    test (math "bitand($sum, 25)") -eq 0; or return 1
    # Behind the = of a flag a choice stands for what follows it.
    set -l flag (string match -r '^-[^=]*=' -- "$word")
    set -l fit
    for choice in (string match -v '' -- $told)
        set -a __kubectl_choices "$flag$choice"
        string match -qr -- '^'(string escape --style=regex -- "$word") "$flag$choice"; and set fit yes
    end
    # Where none fits, fish offers files, unless there are none to offer.
    test -n "$fit"; or test (math "bitand($sum, 4)") -ne 0
end
complete -c kubectl -e
complete -c kubectl -f -n __kubectl_asks -a '$__kubectl_choices'
