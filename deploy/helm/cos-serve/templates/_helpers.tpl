{{- define "cos-serve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "cos-serve.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "cos-serve.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "cos-serve.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "cos-serve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cos-serve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cos-serve.labels" -}}
{{ include "cos-serve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Whether more than one server may run at once. */}}
{{- define "cos-serve.isReplicated" -}}
{{- if gt (int (ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled)) 1 }}yes{{ end }}
{{- end }}

{{/* Seconds that a start may take before Kubernetes gives it up. */}}
{{- define "cos-serve.longestStart" -}}
{{- mul .Values.probes.startup.periodSeconds .Values.probes.startup.failureThreshold }}
{{- end }}

{{/* The name of a volume's claim. Takes a list: root, "models" or "traces". */}}
{{- define "cos-serve.claim" -}}
{{- $root := index . 0 }}
{{- $volume := index . 1 }}
{{- default (printf "%s-%s" (include "cos-serve.fullname" $root) $volume) (index $root.Values.persistence $volume).existingClaim }}
{{- end }}

{{/* Refuses values that each are right, but do not fit together. */}}
{{- define "cos-serve.check" -}}
{{- range $name, $volume := .Values.persistence }}
{{- if and $volume.enabled (not $volume.existingClaim) (ne $volume.accessMode "ReadWriteMany") (include "cos-serve.isReplicated" $) }}
{{- fail (printf "persistence.%s.accessMode %s lets one node mount the volume, and several servers are asked for; set it to ReadWriteMany, or persistence.%s.enabled to false" $name $volume.accessMode $name) }}
{{- end }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail (printf "autoscaling.maxReplicas %d is below autoscaling.minReplicas %d; raise one or lower the other" (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- end }}
{{- end }}
