#compdef kubectl
# Completes command lines of kubectl: `kubectl __complete` says what may come, and what it means.
# For another name of it: compdef _kubectl NAME
compdef _kubectl kubectl
_kubectl() {
    local program=$words[1] flag choice name sum
    local -a asked told choices order space
    # An alias is no program.
    (( $+commands[$program] )) || program=kubectl
    # A word is what its quotes hold.
    asked=("${(@Q)words[2,CURRENT]}")
    told=("${(@f)$($program __complete "${asked[@]}" 2>/dev/null)}")
    # The last line is a colon and the sum of what else there is to say.
    sum=${told[-1]#:}
    [[ $sum == <-> ]] && (( (sum & 1) == 0 )) || return 1
    told[-1]=()
    # Behind the = of a flag a choice stands for what follows it.
    flag=${(M)words[CURRENT]#-*=}
    [[ -z $flag ]] || compset -P "${(b)flag}"
    if (( sum & 8 )); then
        # Files with one of these endings, and directories.
        _files -g "*.(${(j:|:)told})"
        return
    elif (( sum & 16 )); then
        _files -/
        return
    fi
    # What a choice means follows a colon, so those in names are escaped.
    for choice in "${told[@]}"; do
        name=${choice%%$'\t'*}
        [[ -z $name ]] || choices+=("${name//:/\\:}${${choice#"$name"}/$'\t'/:}")
    done
    (( (sum & 32) == 0 )) || order=(-V)
    (( (sum & 2) == 0 )) || space=(-S '')
    _describe $order choice choices "${space[@]}" && return
    (( (sum & 4) == 0 )) && _files
}
# A file of this among the functions is the function; a script only makes it known.
[[ $funcstack[1] != _kubectl ]] || _kubectl "$@"
