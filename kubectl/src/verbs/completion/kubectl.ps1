# Completes command lines of kubectl: `kubectl __complete` says what may come, and what it means.
# For another name of it: Register-ArgumentCompleter -Native -CommandName NAME -ScriptBlock $__kubectlCompleterBlock
$__kubectlCompleterBlock = {
    param($word, $line, $cursor)
    $before = @($line.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor })
    $at = $line.CommandElements | Where-Object { $_.Extent.StartOffset -lt $cursor -and $_.Extent.EndOffset -ge $cursor }
    $text = if ($at) { $at.Extent.Text.Substring(0, $cursor - $at.Extent.StartOffset) } else { '' }
    # An alias is no program.
    $program = $line.CommandElements[0].Extent.Text
    if (-not (Get-Command $program -CommandType Application -ErrorAction SilentlyContinue)) { $program = 'kubectl' }
    # A word is what its quotes hold.
    $asked = @($before | Select-Object -Skip 1 | ForEach-Object {
        if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value } else { $_.Extent.Text }
    })
    # Older shells give no empty arguments to programs, unless these are quoted twice.
    $quoted = "$PSNativeCommandArgumentPassing" -in '', 'Legacy'
    $asked += if ($text -eq '' -and $quoted) { '""' } else { $text }
    $told = @(& $program __complete @asked 2>$null)
    # The last line is a colon and the sum of what else there is to say.
    if ($told.Count -eq 0 -or $told[-1] -notmatch '^:(\d+)$') { return }
    $sum = [int]$Matches[1]
    # What went wrong, and files with some endings or none, are left to the shell, which offers files.
    if ($sum -band 25) { return }
    $flag = if ($text -match '^-[^=]*=') { $Matches[0] } else { '' }
    $space = if ($sum -band 2) { '' } else { ' ' }
    # The shell may have broken the text at a comma or a colon: it wants what follows the break.
    $kept = if ($word -and $text.EndsWith($word)) { $text.Length - $word.Length } else { 0 }
    $choices = @($told | Select-Object -SkipLast 1 | ForEach-Object {
        $name, $about = $_ -split "`t", 2
        $whole = "$flag$name"
        if ($name -and $whole.StartsWith($text, [StringComparison]::Ordinal)) {
            $rest = $whole.Substring($kept) -replace '[\s#@$;,''{}()"`|<>&]', '`$&'
            $tip = if ($about) { $about } else { $name }
            [System.Management.Automation.CompletionResult]::new("$rest$space", $name, 'ParameterValue', $tip)
        }
    })
    # An empty text keeps the shell from offering files.
    if ($choices.Count -eq 0 -and ($sum -band 4)) { '' } else { $choices }
}
Register-ArgumentCompleter -Native -CommandName kubectl -ScriptBlock $__kubectlCompleterBlock
